"""Test a daemon whose primary dies and whose synchronous standby is promoted."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.daemons import StartDaemon
from tests.support.recipes import postgres_tools

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, RunCli, WriteConfig
    from tests.reliability.conftest import Judge

_TIMEOUT = 30.0  # seconds
_INTERVAL = 0.3  # seconds
# Postgres refuses to run as root; this is the user that the tests' other server created.
_USER = "pgserver" if os.geteuid() == 0 else None


class Server:
    """A Postgres server on a local port."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, *arguments: str | Path) -> None:
        """Run one of the commands that come with Postgres."""
        done = subprocess.run(
            [postgres_tools() / command, *arguments],
            user=_USER,
            capture_output=True,
            cwd=self.data.parent,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start the server, and return once it answers queries."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "8MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [postgres_tools() / "postgres", "-D", self.data, *options],
                user=_USER,
                stdout=log,
                stderr=log,
                cwd=self.data.parent,
            )
        self.wait("SELECT true")

    def ask(self, query: str) -> object:
        """Return the single value that a query yields."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", autocommit=True
        ) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def do(self, statement: str) -> None:
        """Run a statement that returns no rows."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def wait(self, query: str) -> None:
        """Return once a query yields true."""
        until = time.monotonic() + _TIMEOUT
        while True:
            try:
                if self.ask(query):
                    return
            except psycopg.OperationalError:
                pass
            if time.monotonic() > until:
                log = self.data.parent / f"{self.data.name}.log"
                pytest.fail(f"{query}: not in {_TIMEOUT} s:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        """Send the server a signal, and wait until it has exited."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_TIMEOUT)


@pytest.fixture
def pair(postgres_server: str) -> Iterator[tuple[Server, Server]]:
    """Yield a primary and its synchronous standby, set up as docs/scaling.md says."""
    assert postgres_server  # it created the user that runs these servers
    directory = Path(tempfile.mkdtemp(prefix="exporter-standby-"))
    if _USER is not None:
        shutil.chown(directory, _USER)
    primary, standby = Server(directory / "primary"), Server(directory / "standby")
    try:
        primary.run(
            "initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", primary.data
        )
        primary.start()
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        standby.run(
            "pg_basebackup", "--dbname", source, "--pgdata", standby.data, "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        standby.start()
        primary.wait("SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'")
        primary.do("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.do("SELECT pg_reload_conf()")
        primary.wait("SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'")
        yield primary, standby
    finally:
        for server in (primary, standby):
            server.end(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_failover_loses_and_falsifies_nothing(
    pair: tuple[Server, Server],
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    judge: "Judge",
) -> None:
    primary, standby = pair
    hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in pair)
    config = write_config(
        base_url=witness.base_url,
        database_url=f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write",
        poll={"interval": f"{_INTERVAL}s"},
    )
    assert run_cli("migrate").returncode == 0
    daemon = start_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 5, "polls before")

    # Its child processes notice and exit too, as if the machine had lost power.
    primary.end(signal.SIGKILL)
    before = len(served)
    daemon.wait(lambda: "waits in the spool" in daemon.text, "a spooled poll")
    daemon.wait(lambda: len(served) >= before + 3, "polls during the outage")
    promoted = time.monotonic()
    standby.do("SELECT pg_promote()")
    daemon.wait_for_text("polls from the spool are in the database")
    print(f"written again {time.monotonic() - promoted:.1f} s after the promotion")  # noqa: T201  # pytest -rP shows it
    after = len(served)
    # Some of the served polls may still wait in the spool.
    count = "SELECT count(*) FROM polls WHERE outcome = 'ok'"
    daemon.wait(
        lambda: len(served) >= after + 3 and standby.ask(count) == len(served), "polls after"
    )

    assert "writable" in run_cli("check", "--offline").stdout
    assert daemon.stop() == 0
    judge(f"postgresql+psycopg://postgres@127.0.0.1:{standby.port}/postgres")
