"""Three daemons behind PgBouncer in transaction mode write one history, whatever happens."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import Link

if TYPE_CHECKING:
    # Tests are no package: these are for the type checker alone.
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import RunDaemon

_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
_INTERVAL = 1.0  # seconds
_BUSY = 8.0  # seconds that a busy machine may add


@pytest.fixture
def pooler(postgres_url: str) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode in front of the server."""
    if _PROGRAM is None:
        pytest.skip("SKIPPED LOUDLY: no pgbouncer here: apt-get install pgbouncer")
    # The server's socket is its owner's, and PgBouncer refuses to be root: it goes over TCP.
    behind = Link(postgres_url)
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
        process = subprocess.Popen([_PROGRAM, *user, config], stderr=log, stdout=log)
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


def test_three_daemons_behind_a_pooler_write_one_history(  # noqa: PLR0917  # pytest passes fixtures by name
    pooler: int,
    postgres_url: str,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    tmp_path: Path,
) -> None:
    links = [Link(postgres_url, server=("127.0.0.1", pooler)) for _ in range(3)]
    daemons = []
    for number, link in enumerate(links):
        written = write_config(
            base_url=witness.base_url,
            database_url=link.url,
            poll={"interval": f"{_INTERVAL}s"},
            spool={"directory": f"spool-{number}"},
        )
        config = written.rename(tmp_path / f"config-{number}.toml")
        daemons.append(run_daemon(config))
    first, second, third = daemons
    served = witness.served[key_pair.key_id]
    for daemon in daemons:
        daemon.wait_for_log("started")
    third.wait(lambda: len(served) >= 3, "polls of all three")

    # Together they ask as often as one does.
    began, before = time.monotonic(), len(witness.requests)
    third.wait(lambda: len(witness.requests) >= before + 5, "five ticks")
    assert time.monotonic() - began >= 4 * _INTERVAL * 0.8

    def goes_on(by: str) -> None:
        seen, since = len(served), time.monotonic()
        third.wait(lambda: len(served) > seen, f"a poll after {by}")
        assert time.monotonic() - since <= 2 * _INTERVAL + _BUSY
        third.wait(lambda: len(served) > seen + 1, f"polls after {by}")

    assert "waits in the spool" not in "".join(daemon.log for daemon in daemons)

    # Whichever is active, it is among those that one after the other are killed, paused, cut off.
    first.kill()
    goes_on("a kill")
    second.process.send_signal(signal.SIGSTOP)
    goes_on("a pause")
    links[1].cut()
    second.process.send_signal(signal.SIGCONT)
    goes_on("waking up with its connections cut")
    links[2].refuse()
    goes_on("a cut from the database")
    links[2].open()
    seen = len(served)
    third.wait(lambda: len(served) >= seen + 3, "polls of those that are left")

    assert second.stop() == 0
    assert third.stop() == 0
    for link in links:
        link.close()
    recorded = record_of(postgres_url)
    assert broken_promises(recorded) == []
    good = [poll for poll in recorded.polls if poll["outcome"] == "ok"]
    assert len(good) >= 10
    # And it says of each instant what was served then. A killed daemon's answer may be missing.
    assert differences(recorded, "main", served, complete=False) == []
    # Everything that was served is in the history, or was seen by two at a time.
    assert len(recorded.polls) >= len(served) - 3
    assert len(recorded.coverage) <= 2
