"""The grid of polls: fixed ticks per account, on a clock that no step moves.

APScheduler asks its time zone for the time, and its triggers for the next run; both are here.
"""

import hashlib
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.base import BaseTrigger

from exporter.clock import elapsed

_LONGEST_START = 5.0  # seconds over which the first polls of many accounts are spread
# A daemon polls up to this long after a tick, so that the daemons divide the accounts. The delay is
# longer than their clocks differ, and too short to matter to a poll.
_LONGEST_BEHIND = 0.25  # seconds
_MOST_BEHIND = 0.05  # of an interval
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # in the scheduler's zone, put in where it is used


class SteadyUTC(tzinfo):
    """UTC as it was when the process started, plus the time elapsed since.

    A scheduler in this zone reads a clock that is never set: `datetime.now(zone)` asks
    `zone.fromutc` what the wall clock's reading means here, and the answer leaves out every step
    that the wall clock has taken. With plain UTC, a clock set back by an hour stops all polls for
    an hour. Machines on one database share the grid as far as their clocks agreed at the start.

    Only the present can be asked for. That is all that the scheduler does: its other instants are
    in this zone from the beginning, and Python converts none of those.
    """

    def __init__(self) -> None:
        self._start = datetime.now(UTC).replace(tzinfo=None)
        self._started = elapsed()

    def fromutc(self, dt: datetime) -> datetime:  # noqa: ARG002  # see above; tzinfo's signature
        """Return this zone's reading of the present."""
        # Comparing `dt` with the present wall clock would be wrong by any step between the two.
        now = self._start + timedelta(seconds=elapsed() - self._started)
        return now.replace(tzinfo=self)

    def utcoffset(self, dt: datetime | None) -> timedelta:  # noqa: ARG002  # tzinfo's signature
        """Return zero, because this is UTC except for the steps."""
        return timedelta(0)

    def dst(self, dt: datetime | None) -> timedelta:  # noqa: ARG002  # tzinfo's signature
        """Return zero, because UTC has no daylight saving time."""
        return timedelta(0)

    def tzname(self, dt: datetime | None) -> str:  # noqa: ARG002  # tzinfo's signature
        """Return the name for logs."""
        return "UTC"


class Grid(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """A trigger soon after the start, then at `offset + n * interval`, on every machine alike.

    Args:
        account: whose name decides the offset, so that accounts spread over the interval and each
            keeps its place.
        interval: seconds.
        daemon: names one of several daemons that share a database; empty if there is only one.
            The name delays the daemon's ticks by a moment, which differs from account to account.
            So each account is usually claimed by the same daemon, which has its snapshots cached.
    """

    def __init__(self, account: str, interval: float, *, daemon: str = "") -> None:
        self._place = _chance(account)
        self._interval = interval
        behind = _chance(f"{daemon}\n{account}") if daemon else 0.0
        self._offset = self._place * interval + behind * min(
            _LONGEST_BEHIND, _MOST_BEHIND * interval
        )

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next instant to poll at; missed ticks are skipped."""
        if previous_fire_time is None:
            return now + timedelta(seconds=self._place * min(self._interval, _LONGEST_START))
        # The grid begins half an interval after the first poll, so no poll follows it at once.
        earliest = max(previous_fire_time + timedelta(seconds=self._interval / 2), now)
        epoch = _EPOCH.replace(tzinfo=now.tzinfo)
        ticks = ((earliest - epoch).total_seconds() - self._offset) // self._interval + 1
        return epoch + timedelta(seconds=ticks * self._interval + self._offset)


def _chance(name: str) -> float:
    """Return a number from 0 to 1 that looks random and is always the same for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
