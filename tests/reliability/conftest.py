"""Share a witness, daemons, and a network that can fail with the tests of reliability."""

import getpass
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

# soak/ is not installed: its programs run by path, and the tests share its checks.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from soak.witness import Witness, broken_promises, differences, record_of

if TYPE_CHECKING:
    from tests.conftest import KeyPair

TIMEOUT = 60.0  # seconds; a test normally waits one or two


def lateness(asked: Sequence[float], interval: float) -> list[float]:
    """Return how many seconds after its tick each poll came; the first tick sets the grid.

    The n-th tick is due n intervals after the first one. If every value lies between minus one
    interval and plus one, then no poll was late by an interval, doubled, or skipped.

    Args:
        asked: the times at which one account's polls reached the exchange, in seconds, from the
            daemon's start. The daemon's first poll is not on the grid.
        interval: seconds.
    """
    ticks = asked[1:]
    return [at - ticks[0] - number * interval for number, at in enumerate(ticks)]


@pytest.fixture
def witness(key_pair: "KeyPair") -> Iterator[Witness]:
    """Yield an exchange with ever-changing groups that remembers what it served to the key."""
    with Witness() as exchange:
        exchange.register(key_pair.key_id, key_pair.public_key)
        yield exchange


class Link:
    """A TCP proxy to a Postgres server that can refuse, freeze, or cut connections.

    Attributes:
        url: SQLAlchemy's URL of the database through this proxy.
        frozen: while set, the proxy passes no data and closes nothing, as if the server hung.
    """

    def __init__(self, url: str, *, server: tuple[str, int] | str | None = None) -> None:
        parsed = make_url(url)
        if server is None:
            libpq = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
            known = conninfo_to_dict(libpq)
            server = f"{known['host']}/.s.PGSQL.{known.get('port') or 5432}"
        self._server = server
        self.frozen = threading.Event()
        self._closing = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self.open()
        self.url = parsed.set(
            host="127.0.0.1", port=self._port, query={"connect_timeout": "2", "sslmode": "disable"}
        ).render_as_string(hide_password=False)

    def open(self) -> None:
        """Accept new connections."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse new connections and cut the open ones."""
        if self._listener is not None:
            # The shutdown wakes accept(), which closing alone would not.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """Cut the open connections."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        """Cut all connections and stop."""
        self._closing.set()
        self.frozen.clear()
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        family = socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET
        with client, socket.socket(family) as server:
            server.connect(self._server)
            self._pairs.append((client, server))
            # Either end may be cut at any moment, and that ends the connection.
            with suppress(OSError, ValueError):
                self._pass(client, server)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        while not self._closing.is_set():
            if self.frozen.is_set():
                time.sleep(0.02)
                continue
            readable, _, _ = select.select([client, server], [], [], 0.05)
            for end in [] if self.frozen.is_set() else readable:
                data = end.recv(65536)
                if not data:
                    return
                other[end].sendall(data)


@pytest.fixture
def link(postgres_url: str) -> Iterator[Link]:
    """Yield a proxy that can fail in front of a fresh Postgres database."""
    made = Link(postgres_url)
    yield made
    made.close()


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield an administrator's connection to the database, which no fault affects."""
    libpq = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(libpq.render_as_string(hide_password=False), autocommit=True) as made:
        yield made


Judge = Callable[..., None]


@pytest.fixture
def judge(witness: Witness, key_pair: "KeyPair") -> Judge:
    """Return a function that compares a database with what the witness served."""

    def compare(url: str, *, complete: bool = True, account: str = "main") -> None:
        recorded = record_of(url)
        served = witness.served[key_pair.key_id]
        assert broken_promises(recorded) == []
        assert differences(recorded, account, served, complete=complete) == []

    return compare


_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def pooler(postgres_url: str) -> Iterator[int]:
    """Yield the port of a PgBouncer in transaction mode in front of the server."""
    with run_pooler(postgres_url) as port:
        yield port


@contextmanager
def run_pooler(url: str) -> Iterator[int]:
    """Run a PgBouncer in transaction mode in front of a database, and yield its port.

    Args:
        url: SQLAlchemy's URL of the database, with the user as whom PgBouncer connects.
    """
    if _PGBOUNCER is None:
        pytest.skip("SKIPPED LOUDLY: no pgbouncer here: apt-get install pgbouncer")
    # PgBouncer refuses to run as root, and only the server's owner may use its Unix socket.
    behind = Link(url)
    server = make_url(behind.url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    directory = Path(tempfile.mkdtemp(prefix="exporter-pgbouncer-"))
    directory.chmod(0o755)
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"""
        [databases]
        * = host={server.host} port={server.port} user={server.username}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = 2
        """
    )
    config.chmod(0o644)
    user = ["-u", "nobody"] if getpass.getuser() == "root" else []
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([_PGBOUNCER, *user, config], stderr=log, stdout=log)
    try:
        until = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail((directory / "log").read_text(encoding="utf-8"))
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()
        behind.close()
        shutil.rmtree(directory, ignore_errors=True)
