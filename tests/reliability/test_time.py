"""Clocks are stepped under a running daemon, which also sleeps, and is stopped for a while."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo import exchange
from soak.witness import broken_promises, record_of
from tests.reliability.conftest import lateness

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import WriteConfig
    from tests.reliability.conftest import Daemon, RunDaemon

# Long enough that a busy machine is not late by one, so that the bound is the promise's own.
_INTERVAL = 2.0  # seconds
_HOUR = 3600  # seconds


@pytest.fixture(autouse=True)
def _a_patient_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exchange accept every clock: what it would refuse is another test's."""
    monkeypatch.setattr(exchange, "CLOCK_TOLERANCE", 10.0**10)


class Clocks:
    """The clocks of a process that is started with `environment`; only Linux has such."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            pytest.skip("SKIPPED LOUDLY: setting a daemon's clocks needs Linux and a C compiler")
        source, library = Path(__file__).with_name("clocks.c"), directory / "clocks.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._shifts = directory / "shifts"
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCKS": str(self._shifts)}
        self.shift()

    def shift(self, *, wall: int = 0, asleep: int = 0) -> None:
        """Set the wall clock wrong by so many seconds; let the machine have slept for others."""
        new = self._shifts.with_suffix(".new")
        new.write_text(f"{wall} {asleep}")
        new.replace(self._shifts)


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    """Clocks that the test sets."""
    return Clocks(tmp_path)


class Watched:
    """A daemon with one account, whose polls are dated by a clock that nobody steps."""

    def __init__(self, daemon: "Daemon", witness: "Witness", database: Path) -> None:
        self.daemon = daemon
        self._witness = witness
        self._database = database

    @property
    def asked(self) -> list[float]:
        """When its polls reached the exchange."""
        return [request.received_at for request in self._witness.requests]

    @property
    def polls(self) -> list[dict[str, Any]]:
        """What it has recorded of them."""
        return record_of(f"sqlite:///{self._database}").polls

    def wait_for_polls(self, more: int) -> None:
        """Return at the end of the poll after so many."""
        wanted = len(self.asked) + more
        self.daemon.wait(lambda: len(self.asked) >= wanted, "polls")
        self.daemon.wait(lambda: self.daemon.log.count("poll_ok") >= wanted, "the poll's end")

    def stop(self) -> list[dict[str, Any]]:
        """End it, and give the stretches of coverage: of a history that is whole."""
        assert self.daemon.stop() == 0
        recorded = record_of(f"sqlite:///{self._database}")
        assert broken_promises(recorded) == []
        assert [poll["outcome"] for poll in recorded.polls] == ["ok"] * len(self.asked)
        return recorded.coverage


Watch = Callable[..., Watched]


@pytest.fixture
def watch(
    witness: "Witness", write_config: "WriteConfig", run_daemon: "RunDaemon", tmp_path: Path
) -> Watch:
    """Start a daemon, with more in its environment."""
    config = write_config(base_url=witness.base_url, poll={"interval": f"{_INTERVAL}s"})

    def start(**environment: str) -> Watched:
        daemon = run_daemon(config, env=environment)
        return Watched(daemon, witness, tmp_path / "order_groups.db")

    return start


def _see_that_no_tick_is_late(asked: list[float]) -> None:
    late = lateness(asked, _INTERVAL)
    assert all(abs(each) < _INTERVAL for each in late), late


def test_steps_of_an_hour_move_no_tick_and_double_none(watch: Watch, clocks: Clocks) -> None:
    watched = watch(**clocks.environment)
    for step in (_HOUR, -_HOUR, 0):
        watched.wait_for_polls(2)
        clocks.shift(wall=step)
    watched.wait_for_polls(2)

    skews = {round(poll["clock_skew_ms"] / (_HOUR * 1000)) for poll in watched.polls}
    assert skews == {-1, 0, 1}
    watched.stop()
    _see_that_no_tick_is_late(watched.asked)


@pytest.mark.parametrize(
    ("night", "moment"),
    [
        ("clocks go forward", datetime(2026, 3, 8, 7, tzinfo=UTC)),
        ("clocks go back", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ],
    ids=["forward", "back"],
)
def test_in_the_nights_of_daylight_saving_polls_go_on_as_ever(
    night: str, moment: datetime, watch: Watch, clocks: Clocks
) -> None:
    before = moment - timedelta(seconds=6)
    clocks.shift(wall=round((before - datetime.now(UTC)).total_seconds()))
    watched = watch(TZ="America/New_York", **clocks.environment)
    watched.wait_for_polls(1)

    def is_over() -> bool:
        polls = watched.polls
        return len(polls) > 4 and polls[-3]["observed_at"] > moment

    watched.daemon.wait(is_over, f"polls over the moment when {night}")
    times = [poll["observed_at"] for poll in watched.polls]
    # The shift is of whole seconds; and a busy machine may start the daemon late.
    assert before - timedelta(seconds=1) <= times[0] < moment + timedelta(seconds=20)
    assert times[-1] - times[0] < timedelta(seconds=60)
    assert len(watched.stop()) == 1
    _see_that_no_tick_is_late(watched.asked)


def test_after_the_machine_slept_for_an_hour_the_next_tick_is_in_time(
    watch: Watch, clocks: Clocks
) -> None:
    watched = watch(**clocks.environment)
    watched.wait_for_polls(3)
    seen, woke = len(watched.asked), time.time()
    # And an odd second, by which the grid must then lie elsewhere for the clock that stood still.
    clocks.shift(wall=_HOUR + 1, asleep=_HOUR + 1)
    watched.wait_for_polls(4)

    (_, after) = watched.stop()
    assert after["gap_cause"] == "not_running"
    assert _HOUR <= (after["started_at"] - after["gap_started_at"]).total_seconds() < _HOUR + 10
    first, *others = watched.asked[seen:]
    # The wait for it began before; and what a busy machine adds.
    assert first - woke < _INTERVAL + 1.0
    _see_that_no_tick_is_late(watched.asked[:seen])
    _see_that_no_tick_is_late([first, *others])
    # The hour's ticks are not made up for.
    assert len(others) <= (others[-1] - first) / _INTERVAL + 2
    assert _is_at(1.0, of=watched.asked[1], ticks=others)


def test_a_process_that_was_stopped_for_some_intervals_goes_on_at_its_place(watch: Watch) -> None:
    watched = watch()
    watched.wait_for_polls(3)
    seen = len(watched.asked)
    watched.daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(3.2 * _INTERVAL)
    assert len(watched.asked) == seen
    went_on = time.time()
    watched.daemon.process.send_signal(signal.SIGCONT)
    watched.wait_for_polls(4)

    (_, after) = watched.stop()
    assert after["gap_cause"] == "not_running"
    first, *others = watched.asked[seen:]
    assert first - went_on < _INTERVAL
    # The first is the latest of the ticks that were missed; the others are none but their own.
    _see_that_no_tick_is_late([first, *others])
    assert len(others) <= (others[-1] - first) / _INTERVAL + 2
    assert _is_at(0.0, of=watched.asked[1], ticks=others)


def _is_at(place: float, *, of: float, ticks: list[float]) -> bool:
    """Whether most ticks lie so many seconds after another, and any number of intervals."""
    half = _INTERVAL / 2
    off = [abs((tick - of - place + half) % _INTERVAL - half) for tick in ticks]
    return sorted(off)[len(off) // 2] < _INTERVAL / 5
