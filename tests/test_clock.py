"""Test both clocks; `reliability/test_time.py` tests a daemon whose clocks are set."""

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
