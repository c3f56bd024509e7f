"""The polling grid, and the scheduler's clock, which ignores steps of the wall clock."""

import itertools
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from hypothesis import given
from hypothesis import strategies as st

from exporter.daemon.grid import Grid, SteadyUTC

HOUR = timedelta(hours=1)
ZONE = SteadyUTC()

ACCOUNTS = st.text(min_size=1, max_size=64)
INTERVALS = st.sampled_from([0.1, 0.5, 1.0, 7.0, 60.0, 90.5, 86_400.0])
INSTANTS = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001  # the zone is added below
    datetime(2090, 1, 1),  # noqa: DTZ001  # likewise
).map(lambda instant: instant.replace(tzinfo=ZONE))


@given(ACCOUNTS, INTERVALS, INSTANTS)
def test_the_first_poll_is_soon(account: str, interval: float, now: datetime) -> None:
    first = Grid(account, interval).get_next_fire_time(None, now)
    assert now <= first <= now + timedelta(seconds=min(interval, 5.0))


@given(ACCOUNTS, INTERVALS, INSTANTS)
def test_ticks_lie_an_interval_apart(account: str, interval: float, now: datetime) -> None:
    grid = Grid(account, interval)
    tick = grid.get_next_fire_time(None, now)
    ticks = []
    for _ in range(5):
        tick = grid.get_next_fire_time(tick, tick)
        ticks.append(tick)
    assert ticks[0] - now > timedelta(seconds=interval * 0.5 - 1e-4)
    for before, after in itertools.pairwise(ticks):
        assert abs((after - before).total_seconds() - interval) < 1e-4


@given(ACCOUNTS, INTERVALS, INSTANTS, st.floats(0.5, 1000))
def test_missed_ticks_are_skipped_and_the_grid_is_kept(
    account: str, interval: float, now: datetime, late: float
) -> None:
    grid = Grid(account, interval)
    tick = grid.get_next_fire_time(now, now)
    later = tick + timedelta(seconds=late * interval)
    following = grid.get_next_fire_time(tick, later)
    assert later <= following <= later + timedelta(seconds=interval + 1e-4)
    intervals = (following - tick).total_seconds() / interval
    assert abs(intervals - round(intervals)) * interval < 1e-3


@given(ACCOUNTS, INTERVALS, INSTANTS)
def test_machines_share_the_grid(account: str, interval: float, now: datetime) -> None:
    elsewhere = now.replace(tzinfo=SteadyUTC())
    here = Grid(account, interval).get_next_fire_time(now, now)
    there = Grid(account, interval).get_next_fire_time(elsewhere, elsewhere)
    assert here.replace(tzinfo=UTC) == there.replace(tzinfo=UTC)


def test_accounts_spread_over_the_interval() -> None:
    now = datetime(2026, 11, 1, tzinfo=ZONE)
    places = [
        Grid(f"account {number}", 60.0).get_next_fire_time(now, now).second for number in range(100)
    ]
    assert len({place // 10 for place in places}) == 6


def test_daemons_that_share_a_database_divide_the_accounts() -> None:
    now = datetime(2026, 11, 1, tzinfo=ZONE)

    def tick(account: str, daemon: str, after: datetime) -> datetime:
        # 31 s after the start the first poll, which comes early, is over.
        grid = Grid(account, 60.0, daemon=daemon)
        return grid.get_next_fire_time(after, after + timedelta(seconds=31))

    first: dict[str, str] = {}
    for number in range(90):
        account = f"account {number}"
        at_once = Grid(account, 60.0).get_next_fire_time(now, now + timedelta(seconds=31))
        ticks = {daemon: tick(account, daemon, now) for daemon in ("a", "b", "c")}
        first[account] = min(ticks, key=lambda daemon: ticks[daemon])
        for daemon, at in ticks.items():
            assert timedelta(0) < at - at_once < timedelta(seconds=0.25)
            assert tick(account, daemon, at) - at == timedelta(seconds=60)
    shares = Counter(first.values())
    assert all(20 <= shares[daemon] <= 40 for daemon in "abc")
    assert len({tick("main", str(daemon), now) for daemon in range(50)}) == 50
    for interval in (0.1, 1.0):
        late = Grid("main", interval, daemon="a")._offset - Grid("main", interval)._offset
        assert 0 < late < 0.05 * interval


class WallClock(datetime):
    """APScheduler's view of the wall clock, which a test steps."""

    step = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        # Like datetime.now, this passes the wall clock's reading to the zone.
        assert tz is not None
        return tz.fromutc((datetime.now(UTC) + cls.step).replace(tzinfo=tz))


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", WallClock)
    monkeypatch.setattr(WallClock, "step", timedelta(0))
    return WallClock


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_the_clock_ignores_steps_of_the_wall_clock(
    wall_clock: type[WallClock], step: timedelta
) -> None:
    zone = SteadyUTC()
    before = wall_clock.now(zone)
    wall_clock.step = step
    after = wall_clock.now(zone)
    assert timedelta(0) <= after - before < timedelta(seconds=10)
    assert abs(before.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=10)


@pytest.mark.parametrize("steps", [[-HOUR], [HOUR], [-HOUR, HOUR, -HOUR]])
def test_a_real_scheduler_keeps_its_grid_while_the_wall_clock_is_stepped(
    wall_clock: type[WallClock], steps: list[timedelta]
) -> None:
    runs: list[float] = []
    ran = threading.Condition()
    zone = SteadyUTC()

    def run() -> None:
        with ran:
            runs.append((datetime.now(zone) - datetime(1970, 1, 1, tzinfo=zone)).total_seconds())
            ran.notify_all()

    def wait_for_more(count: int) -> None:
        with ran:
            until = len(runs) + count
            assert ran.wait_for(lambda: len(runs) >= until, 30)

    scheduler = BackgroundScheduler(timezone=zone)
    scheduler.add_job(run, Grid("main", 0.2), coalesce=True, misfire_grace_time=None)
    scheduler.start()
    try:
        wait_for_more(2)
        for step in steps:
            wall_clock.step = step
            wait_for_more(3)
    finally:
        scheduler.shutdown()
    # No run came an hour late, and none came twice.
    waits = [after - before for before, after in itertools.pairwise(runs[1:])]
    assert max(waits) < 10
    assert len(runs) <= (runs[-1] - runs[0]) / 0.2 + 2


def test_the_scheduler_asks_its_zone_only_for_the_current_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # `SteadyUTC` converts no other instant correctly.
    asked: list[timedelta] = []
    from_utc = SteadyUTC.fromutc

    def watched(zone: SteadyUTC, dt: datetime) -> datetime:
        asked.append(dt.replace(tzinfo=UTC) - datetime.now(UTC))
        return from_utc(zone, dt)

    monkeypatch.setattr(SteadyUTC, "fromutc", watched)
    done = threading.Event()
    counted = itertools.count()
    scheduler = BackgroundScheduler(timezone=SteadyUTC())
    scheduler.add_job(
        lambda: done.set() if next(counted) >= 3 else None,
        Grid("main", 0.1),
        coalesce=True,
        misfire_grace_time=None,
    )
    # This job is a day away, so that a conversion of its next run would be seen.
    scheduler.add_job(print, Grid("other", 86_400.0), args=("never",))
    scheduler.start()
    assert done.wait(30)
    assert all(job.next_run_time.tzinfo is scheduler.timezone for job in scheduler.get_jobs())
    scheduler.shutdown()
    assert asked
    assert max(map(abs, asked)) < timedelta(seconds=5)
