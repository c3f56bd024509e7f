"""Test the clocks; `reliability/test_time.py` tests a daemon whose clocks are set."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from exporter import clock


def test_instants_increase_though_the_wall_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    microsecond = timedelta(microseconds=1)
    readings = [noon, noon, noon - timedelta(hours=1), noon + timedelta(hours=1), noon]

    class WallClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # it returns plain datetimes
            assert tz is UTC
            return readings.pop(0)

    instants = clock.Clock()
    monkeypatch.setattr(clock, "datetime", WallClock)
    assert [instants.now() for _ in range(5)] == [
        noon,
        noon + microsecond,
        noon + 2 * microsecond,
        noon + timedelta(hours=1),
        noon + timedelta(hours=1) + microsecond,
    ]


def test_elapsed_time_increases() -> None:
    before = clock.elapsed()
    time.sleep(0.01)
    assert 0.005 < clock.elapsed() - before < 10


class Machine:
    """A machine whose clocks a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = datetime(2026, 11, 1, 12, tzinfo=UTC)
        self.monotonic = 100.0
        self.stops: list[float] = []  # what passes between two readings of its clocks

        class WallClock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # as plain datetimes
                assert tz is UTC
                self.run(self.stops.pop() if self.stops else 0.0)
                return self.wall

        monkeypatch.setattr(clock, "datetime", WallClock)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)

    def run(self, seconds: float, *, wall: float = 0.0) -> datetime:
        """Let time pass, and the wall clock be set by so much."""
        self.monotonic += seconds
        self.wall += timedelta(seconds=seconds + wall)
        return self.wall


@pytest.mark.parametrize("step", [3600.0, 1.5, -1.5, -3600.0])
def test_a_steady_clock_does_not_follow_a_step(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    machine = Machine(monkeypatch)
    steady = clock.SteadyClock()
    assert steady.now() == machine.wall
    assert machine.run(10.0) == steady.now()
    assert steady.step() == 0.0
    expected = machine.run(5.0)
    machine.run(0.0, wall=step)
    assert steady.now() == expected
    assert steady.step() == pytest.approx(step)
    assert clock.SteadyClock().now() == machine.wall


def test_a_steady_clock_follows_what_is_corrected_little_by_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    steady = clock.SteadyClock()
    for _ in range(100):
        machine.run(1.0, wall=0.05)
        assert steady.step() == 0.0
        assert steady.now() == machine.wall
    for _ in range(100):
        machine.run(1.0, wall=-0.05)
        assert steady.step() == 0.0
    assert abs(steady.now() - machine.wall) < timedelta(seconds=0.1)


def test_a_clock_that_is_set_back_again_and_again_has_stepped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    steady = clock.SteadyClock()
    steps = []
    for _ in range(4):
        machine.run(0.1, wall=-0.5)
        steady.now()
        steps.append(steady.step())
    # It does not run back, so that it is 0.4 s further ahead each time.
    assert steps == [0.0, 0.0, pytest.approx(-1.2, abs=0.5), pytest.approx(-1.6, abs=0.5)]


def test_a_process_that_was_stopped_between_two_readings_has_seen_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    steady = clock.SteadyClock()
    machine.stops = [0.0, 30.0]
    assert steady.step() == 0.0
    assert machine.stops == []
