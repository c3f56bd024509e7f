"""Test that three daemons behind PgBouncer in transaction mode write one history."""

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import Link
from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig

_INTERVAL = 1.0  # seconds
_BUSY = 8.0  # seconds that a busy machine may add


def test_three_daemons_behind_a_pooler_write_one_history(
    pooler: int,
    postgres_url: str,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
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
        daemons.append(start_daemon(config))
    first, second, third = daemons
    served = witness.served[key_pair.key_id]
    for daemon in daemons:
        daemon.wait_for_text("started")
    third.wait(lambda: len(served) >= 3, "polls of all three")

    # Three daemons together poll as often as one.
    began, before = time.monotonic(), len(witness.requests)
    third.wait(lambda: len(witness.requests) >= before + 5, "five ticks")
    assert time.monotonic() - began >= 4 * _INTERVAL * 0.8

    def wait_for_polls_after(fault: str) -> None:
        seen, since = len(served), time.monotonic()
        third.wait(lambda: len(served) > seen, f"a poll after {fault}")
        assert time.monotonic() - since <= 2 * _INTERVAL + _BUSY
        third.wait(lambda: len(served) > seen + 1, f"polls after {fault}")

    assert "waits in the spool" not in "".join(daemon.text for daemon in daemons)

    # All three are killed, paused or cut off in turn, so the active one is among them.
    first.kill()
    wait_for_polls_after("a kill")
    second.process.send_signal(signal.SIGSTOP)
    wait_for_polls_after("a pause")
    links[1].cut()
    second.process.send_signal(signal.SIGCONT)
    wait_for_polls_after("resuming with its connections cut")
    links[2].refuse()
    wait_for_polls_after("losing the database")
    links[2].open()
    seen = len(served)
    third.wait(lambda: len(served) >= seen + 3, "polls of the remaining daemons")

    assert second.stop() == 0
    assert third.stop() == 0
    for link in links:
        link.close()
    recorded = record_of(postgres_url)
    assert broken_promises(recorded) == []
    good = [poll for poll in recorded.polls if poll["outcome"] == "ok"]
    assert len(good) >= 10
    # The history matches what was served at each instant. The killed daemon may have lost a poll.
    assert differences(recorded, "main", served, complete=False) == []
    # Every response is in the history, except for a few that two daemons received at once.
    assert len(recorded.polls) >= len(served) - 3
    assert len(recorded.coverage) <= 2
