"""Three daemons behind PgBouncer in transaction mode write one history, whatever happens."""

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import Link

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import RunDaemon

_INTERVAL = 1.0  # seconds
_BUSY = 8.0  # seconds that a busy machine may add


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
