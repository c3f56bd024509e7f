"""The wall clock is stepped under a running daemon, and the nights of daylight saving pass."""

import shutil
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.demo import exchange
from tests.soak.witness import broken_promises, record_of

if TYPE_CHECKING:
    # Tests are no package: these are for the type checker alone.
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import RunDaemon
    from tests.soak.witness import Witness

_LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
pytestmark = pytest.mark.skipif(
    _LIBRARY is None or shutil.which("faketime") is None,
    reason="SKIPPED LOUDLY: no faketime here: apt-get install faketime",
)

_INTERVAL = 0.5  # seconds
_LATEST = 10.0  # seconds between two polls: what a busy machine may add, and never an hour


def _faked(clock: Path, **more: str) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(_LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # As a step does: it moves the wall clock alone.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    } | more


@pytest.fixture(autouse=True)
def _a_patient_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exchange accept every clock: what it would refuse is another test's."""
    monkeypatch.setattr(exchange, "CLOCK_TOLERANCE", 10.0**10)


def _steady(witness: "Witness") -> None:
    asked = [request.received_at for request in witness.requests]
    waits = [after - before for before, after in pairwise(asked)]
    assert max(waits) <= _LATEST, [round(wait, 2) for wait in waits]
    # One tick may be late and the next in time; in all there are no more polls than ticks.
    assert len(asked) <= (asked[-1] - asked[0]) / _INTERVAL + 2, waits


def test_steps_of_an_hour_move_no_tick_and_double_none(
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    tmp_path: Path,
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    config = write_config(base_url=witness.base_url, poll={"interval": f"{_INTERVAL}s"})
    daemon = run_daemon(config, env=_faked(clock))
    served = witness.served[key_pair.key_id]
    for step in ("+3600", "-3600", "+0"):
        seen = len(served)
        daemon.wait(lambda seen=seen: len(served) >= seen + 4, "polls before the step")  # type: ignore[misc]  # mypy cannot infer it
        clock.write_text(step)
    seen = len(served)
    daemon.wait(lambda: len(served) >= seen + 4, "polls after the last step")

    assert daemon.stop() == 0
    _steady(witness)
    recorded = record_of(f"sqlite:///{tmp_path / 'order_groups.db'}")
    assert broken_promises(recorded) == []
    assert [poll["outcome"] for poll in recorded.polls] == ["ok"] * len(served)
    skews = {round(poll["clock_skew_ms"] / 3_600_000) for poll in recorded.polls}
    assert skews == {-1, 0, 1}


@pytest.mark.parametrize(
    ("night", "date"),
    [("clocks go forward", "@2026-03-08 01:59:54"), ("clocks go back", "@2026-11-01 01:59:54")],
)
def test_in_the_nights_of_daylight_saving_polls_go_on_as_ever(  # noqa: PLR0917  # pytest passes fixtures by name
    night: str,
    date: str,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    tmp_path: Path,
) -> None:
    clock = tmp_path / "clock"
    clock.write_text(date)
    config = write_config(base_url=witness.base_url, poll={"interval": f"{_INTERVAL}s"})
    daemon = run_daemon(config, env=_faked(clock, TZ="America/New_York"))
    served = witness.served[key_pair.key_id]
    database = tmp_path / "order_groups.db"
    moment = 7 if "forward" in night else 6  # 02:00 in New York, by UTC

    def is_over() -> bool:
        polls = record_of(f"sqlite:///{database}").polls if len(served) > 2 else []
        return len(polls) > 4 and polls[-3]["observed_at"].hour == moment

    daemon.wait(is_over, f"polls over the moment when {night}")

    assert daemon.stop() == 0
    _steady(witness)
    recorded = record_of(f"sqlite:///{database}")
    assert broken_promises(recorded) == []
    times = [poll["observed_at"] for poll in recorded.polls]
    # A busy machine may start the daemon too late to see the hour before.
    assert times[0].hour in {moment - 1, moment}
    assert times[-1] - times[0] < timedelta(seconds=60)
    assert len(recorded.coverage) == 1
