"""Test a daemon whose clocks are stepped, whose machine sleeps, or that is suspended."""

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo import exchange
from soak.witness import broken_promises, record_of
from tests.reliability.conftest import lateness
from tests.support.clocks import Clocks
from tests.support.daemons import Daemon, StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import WriteConfig

# This exceeds the delays of a busy machine, so the tests can hold polls to the promised bound.
_INTERVAL = 2.0  # seconds
_HOUR = 3600  # seconds


@pytest.fixture(autouse=True)
def _tolerant_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exchange accept every clock; other tests cover its refusals."""
    monkeypatch.setattr(exchange, "CLOCK_TOLERANCE", 10.0**10)


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    """Return clocks that the test can shift."""
    return Clocks(tmp_path)


class Watched:
    """A daemon with one account, whose polls are timed by an unshifted clock."""

    def __init__(self, daemon: Daemon, witness: "Witness", database: Path) -> None:
        self.daemon = daemon
        self._witness = witness
        self._database = database

    @property
    def asked(self) -> list[float]:
        """Return when its polls reached the exchange, as Unix times."""
        return [request.received_at for request in self._witness.requests]

    @property
    def polls(self) -> list[dict[str, Any]]:
        """Return its recorded polls."""
        return record_of(f"sqlite:///{self._database}").polls

    def wait_for_polls(self, more: int) -> None:
        """Return once this many more polls have ended."""
        wanted = len(self.asked) + more
        self.daemon.wait(lambda: len(self.asked) >= wanted, "polls")
        self.daemon.wait(lambda: self.daemon.text.count("poll_ok") >= wanted, "the poll's end")

    def stop(self) -> list[dict[str, Any]]:
        """Stop the daemon, check its history, and return the stretches of coverage."""
        assert self.daemon.stop() == 0
        recorded = record_of(f"sqlite:///{self._database}")
        assert broken_promises(recorded) == []
        assert [poll["outcome"] for poll in recorded.polls] == ["ok"] * len(self.asked)
        return recorded.coverage


Watch = Callable[..., Watched]


@pytest.fixture
def watch(
    witness: "Witness", write_config: "WriteConfig", start_daemon: StartDaemon, tmp_path: Path
) -> Watch:
    """Return a function that starts a daemon with extra environment variables."""
    config = write_config(base_url=witness.base_url, poll={"interval": f"{_INTERVAL}s"})

    def start(**environment: str) -> Watched:
        daemon = start_daemon(config, env=environment)
        return Watched(daemon, witness, tmp_path / "order_groups.db")

    return start


def _assert_no_tick_is_late(asked: list[float]) -> None:
    late = lateness(asked, _INTERVAL)
    assert all(abs(each) < _INTERVAL for each in late), late


def test_clock_steps_of_an_hour_neither_move_nor_double_a_tick(
    watch: Watch, clocks: Clocks
) -> None:
    watched = watch(**clocks.environment)
    for step in (_HOUR, -_HOUR, 0):
        watched.wait_for_polls(2)
        clocks.shift(wall=step)
    watched.wait_for_polls(2)

    skews = {round(poll["clock_skew_ms"] / (_HOUR * 1000)) for poll in watched.polls}
    assert skews == {-1, 0, 1}
    watched.stop()
    _assert_no_tick_is_late(watched.asked)


@pytest.mark.parametrize(
    ("night", "moment"),
    [
        ("clocks go forward", datetime(2026, 3, 8, 7, tzinfo=UTC)),
        ("clocks go back", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ],
    ids=["forward", "back"],
)
def test_daylight_saving_changes_move_no_tick(
    night: str, moment: datetime, watch: Watch, clocks: Clocks
) -> None:
    before = moment - timedelta(seconds=6)
    clocks.shift(wall=round((before - datetime.now(UTC)).total_seconds()))
    watched = watch(TZ="America/New_York", **clocks.environment)
    watched.wait_for_polls(1)

    def is_over() -> bool:
        polls = watched.polls
        return len(polls) > 4 and polls[-3]["observed_at"] > moment

    watched.daemon.wait(is_over, f"polls across the moment when {night}")
    times = [poll["observed_at"] for poll in watched.polls]
    # The shift has whole seconds, and a busy machine may start the daemon late.
    assert before - timedelta(seconds=1) <= times[0] < moment + timedelta(seconds=20)
    assert times[-1] - times[0] < timedelta(seconds=60)
    assert len(watched.stop()) == 1
    _assert_no_tick_is_late(watched.asked)


def test_after_an_hour_of_sleep_the_next_tick_is_on_time(watch: Watch, clocks: Clocks) -> None:
    watched = watch(**clocks.environment)
    watched.wait_for_polls(3)
    seen, woke = len(watched.asked), time.time()
    # The odd second moves the grid by half an interval on the witness's clock, which did not sleep.
    clocks.shift(wall=_HOUR + 1, asleep=_HOUR + 1)
    watched.wait_for_polls(4)

    (_, after) = watched.stop()
    assert after["gap_cause"] == "not_running"
    assert _HOUR <= (after["started_at"] - after["gap_started_at"]).total_seconds() < _HOUR + 10
    first, *others = watched.asked[seen:]
    # The wait for the tick began before the sleep; a busy machine may add a second.
    assert first - woke < _INTERVAL + 1.0
    _assert_no_tick_is_late(watched.asked[:seen])
    _assert_no_tick_is_late([first, *others])
    # The daemon does not make up for the ticks of that hour.
    assert len(others) <= (others[-1] - first) / _INTERVAL + 2
    assert _are_offset(1.0, after=watched.asked[1], ticks=others)


def test_a_suspended_process_resumes_its_grid(watch: Watch) -> None:
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
    # The first poll is for the latest missed tick; the others come at their own ticks.
    _assert_no_tick_is_late([first, *others])
    assert len(others) <= (others[-1] - first) / _INTERVAL + 2
    assert _are_offset(0.0, after=watched.asked[1], ticks=others)


def _are_offset(seconds: float, *, after: float, ticks: list[float]) -> bool:
    """Return whether most ticks come `seconds` plus whole intervals after a given one."""
    half = _INTERVAL / 2
    off = [abs((tick - after - seconds + half) % _INTERVAL - half) for tick in ticks]
    return sorted(off)[len(off) // 2] < _INTERVAL / 5
