"""Test that no secret appears in any output, log, file or table."""

import base64
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests

from exporter.demo.answers import Answer, Request
from tests.reliability.conftest import Link
from tests.support.keys import pem, write_key
from tests.support.processes import ending

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair

_KEY_ID = "5ec4e7ed-0000-4bad-b00b-5ec4e7edf00d"
_PASSPHRASE = "a-pass/phrase nobody:may@see"
_PASSWORD = "pa55/word nobody:may@see"


class _Place:
    """A directory in which commands run, with everything that they output."""

    def __init__(self, directory: Path, key: "KeyPair", witness: "Witness") -> None:
        self.directory = directory
        self.seen: list[tuple[str, bytes]] = []
        self._witness = witness
        secrets = directory / "secrets"
        secrets.mkdir()
        self._key_file = write_key(secrets / "key.pem", key.private_key, _PASSPHRASE.encode())
        self._pem = self._key_file.read_bytes()
        self._passphrase_file = secrets / "passphrase"
        self._passphrase_file.touch(mode=0o600)
        self._passphrase_file.write_text(_PASSPHRASE)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._formats = cycle(["text", "json", "json", "text"])
        self._private_key = key.private_key

    def config(self, name: str, database_url: str, *, base_url: str | None = None) -> Path:
        place = self.directory / name
        place.mkdir(exist_ok=True)
        path = place / "config.toml"
        path.write_text(
            f"""
            [database]
            url = "{database_url}"
            [poll]
            interval = "200ms"
            deadline = "2s"
            max_attempts = 2
            [metrics]
            listen = "127.0.0.1:{self._port}"
            textfile = "metrics.prom"
            [[accounts]]
            name = "main"
            base_url = "{base_url or self._witness.base_url}"
            key_id = "{_KEY_ID}"
            private_key_file = "{self._key_file}"
            private_key_passphrase_file = "{self._passphrase_file}"
            """
        )
        return path

    def run(self, config: Path, *arguments: str) -> int:
        """Run the command to its end; one run after another takes another log format."""
        with self._started(config, *arguments) as (process, what):
            return self._finish(process, what)

    def run_daemon(self, config: Path) -> None:
        """Run a daemon until it has polled a few times, and look at it from the outside."""
        requests_before = len(self._witness.requests)
        with self._started(config, "daemon") as (process, what):
            # The endpoint opens before the first poll.
            self._witness.wait_for_requests(requests_before + 5, seconds=60)
            self.look(f"/proc/{process.pid}")
            self.scrape()
            process.send_signal(signal.SIGTERM)
            self._finish(process, what)

    @contextmanager
    def _started(
        self, config: Path, *arguments: str
    ) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
        log_format = next(self._formats)
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", f"--config={config}", "--log-level=DEBUG",
             f"--log-format={log_format}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=config.parent,
            env={
                "PATH": os.environ["PATH"],
                "KALSHI_EXPORTER_TRACEBACK": "1",
                "DB_PASSWORD": _PASSWORD,
            },
        )  # fmt: skip
        with ending(process):
            yield process, f"{arguments} {log_format}"

    def _finish(self, process: "subprocess.Popen[bytes]", what: str) -> int:
        output, _ = process.communicate(timeout=120)
        self.seen.append((what, output))
        return process.returncode

    def look(self, process: str) -> None:
        """Keep what other users can see of a process."""
        for name in ("cmdline", "comm", "status", "stat"):
            self.seen.append((f"/proc/…/{name}", Path(process, name).read_bytes()))

    def scrape(self) -> None:
        """Keep the responses of the daemon's HTTP endpoint."""
        for path in ("/metrics", "/livez", "/readyz", "/elsewhere"):
            response = requests.get(f"http://127.0.0.1:{self._port}{path}", timeout=10)
            self.seen.append((path, repr(response.headers).encode() + response.content))

    def forbidden(self) -> dict[str, list[bytes]]:
        """Return the secrets by kind, each in every form that it could take."""
        plain = pem(self._private_key)
        keys = [line for each in (plain, self._pem) for line in each.splitlines()[1:-1]]
        numbers = self._private_key.private_numbers()
        signatures = [
            request.headers.get("kalshi-access-signature", "").encode()
            for request in self._witness.requests
        ]
        return {
            "key id": [_KEY_ID.encode(), _KEY_ID[:18].encode()],
            "key": [*keys, str(numbers.d).encode(), str(numbers.p).encode()],
            "passphrase": _forms(_PASSPHRASE),
            "password": _forms(_PASSWORD),
            "signature": [form for each in signatures if each for form in (each, each[:40])],
        }


def _echo(request: Request) -> Answer:
    """Refuse a request in an error that repeats its key id and signature."""
    signature = request.headers["kalshi-access-signature"]
    return Answer.json({"message": f"{request.key_id} {signature}"}, status=401)


def _forms(secret: str) -> list[bytes]:
    encoded = base64.b64encode(secret.encode())
    return [secret.encode(), quote(secret, safe="").encode(), quote(secret).encode(), encoded]


@contextmanager
def _link(url: str) -> Iterator[Link]:
    link = Link(url)
    try:
        yield link
    finally:
        link.close()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes through /proc")
def test_no_command_leaks_a_secret_whatever_fails(
    key_pair: "KeyPair", witness: "Witness", postgres_url: str, tmp_path: Path
) -> None:
    witness.register(_KEY_ID, key_pair.public_key)
    place = _Place(tmp_path, key_pair, witness)
    with _link(postgres_url) as link:
        # The server accepts any password, so this one is only there to be leaked.
        at = link.url.partition("@")[2]
        postgres = f"postgresql+psycopg://postgres:${{DB_PASSWORD}}@{at}"
        on_sqlite = place.config("sqlite", "sqlite:///order_groups.db")
        on_postgres = place.config("postgres", postgres)
        for config in (on_sqlite, on_postgres):
            assert place.run(config, "run-once") == 0
            place.run(config, "status")
            place.run(config, "check")
            place.run_daemon(config)
        for _ in range(4):
            witness.script(_KEY_ID, Answer.server_error(), Answer(ending="reset"), _echo)
        place.run(on_sqlite, "run-once")
        place.run_daemon(on_sqlite)
        for config in (on_sqlite, on_postgres):
            # By now, the errors that repeat the key id and signature are recorded.
            assert place.run(config, "report") == 0
            place.run(config, "status", "--json")
            for what in ("polls", "gaps", "history"):
                assert place.run(config, "export", what, "--format=jsonl") == 0
        link.refuse()
        place.run(on_postgres, "run-once")
        place.run(on_postgres, "check")
        place.run_daemon(on_postgres)
    nobody = place.config("nobody", "sqlite:///o.db", base_url="http://127.0.0.1:9/trade-api/v2")
    place.run(nobody, "run-once")
    for name, url in (("wrong", "mysql://u:{}@h/d"), ("fault", "postgresql://u:{}@h:port/d")):
        place.run(place.config(name, url.format(quote(_PASSWORD, safe=""))), "check")

    assert len(witness.requests) > 10
    files = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "config.toml" and path.parent.name != "secrets"
    ]
    assert {"order_groups.db", "spool.db", "metrics.prom", "report.html"} <= {
        path.name for path in files
    }
    assert any(b"kalshi_exporter_polls" in seen for where, seen in place.seen if "metrics" in where)
    everything = [*place.seen, *((str(path), path.read_bytes()) for path in files)]
    everything.append(("polls on Postgres", _dump(postgres_url)))
    found = {
        f"{what} in {where}"
        for what, forms in place.forbidden().items()
        for where, content in everything
        if re.search(b"|".join(map(re.escape, forms)), content)
    }
    assert found == set()
    modes = {
        str(path): stat.filemode(path.stat().st_mode)
        for path in [*files, *(path.parent for path in files if path.name == "spool.db")]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
        # node_exporter reads the metrics as another user, and a report's mode follows the umask.
        and path.name not in {"metrics.prom", "report.html"}
    }
    assert modes == {}


def _dump(url: str) -> bytes:
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    with engine.connect() as connection:
        tables = ("polls", "accounts", "coverage", "order_group_snapshots")
        rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in tables]
    engine.dispose()
    return repr(rows).encode()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at limits through /proc")
def test_a_crash_leaves_no_core_dump_with_the_key(
    key_pair: "KeyPair", witness: "Witness", tmp_path: Path
) -> None:
    witness.register(_KEY_ID, key_pair.public_key)
    config = _Place(tmp_path, key_pair, witness).config("core", "sqlite:///order_groups.db")
    daemon = [sys.executable, "-m", "exporter", f"--config={config}", "daemon"]
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -S -c $(ulimit -H -c); exec "$@"', "sh", *daemon],
        stderr=subprocess.DEVNULL,
    )
    with ending(process):
        witness.wait_for_requests(1, seconds=60)
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4] == "0"
