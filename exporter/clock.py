"""The clocks: instants that never run backwards, elapsed time, and a wall clock without steps."""

import threading
import time
from datetime import UTC, datetime, timedelta

# A response received before a suspend must be old after it. Linux's CLOCK_MONOTONIC stops while
# the machine sleeps, but CLOCK_BOOTTIME does not. On macOS, CLOCK_MONOTONIC does not stop either.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_TICK = timedelta(microseconds=1)


def elapsed() -> float:
    """Return seconds since an arbitrary point, sleep included, whatever the wall clock does."""
    return time.clock_gettime(_ELAPSED)


class Clock:
    """The wall clock in UTC, made strictly increasing within this process.

    When the wall clock is set back, instants advance by one microsecond each until it has caught
    up: the order of observations is worth more than the length of an hour that comes twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """Return the present instant in UTC, later than every one returned before."""
        with self._lock:
            self._last = max(datetime.now(UTC), self._last + _TICK)
            return self._last


class SteadyClock:
    """The wall clock in UTC as it was at first, continued by elapsed time: no step moves it.

    It follows what a time server corrects little by little. Once the wall clock was set, or the
    machine slept, `step` says so, and a new `SteadyClock` is needed. Not for several threads.
    """

    TOLERANCE = 1.0
    """Seconds that the wall clock may be set by, or the machine sleep, without a `step`."""

    def __init__(self) -> None:
        self._wall, self._monotonic = _readings()
        self._last = self._wall

    def now(self) -> datetime:
        """Return the present instant in UTC, never an earlier one than before."""
        self._last = max(self._last, self._at(time.monotonic()))
        return self._last

    def step(self) -> float:
        """Return by how many seconds the wall clock was set since the last call.

        The value is positive if the clock was set forward or the machine slept, negative if the
        clock was set back, and 0.0 otherwise.
        """
        wall, monotonic = _readings()
        drift = (wall - self._at(monotonic)).total_seconds()
        ahead = (self._last - wall).total_seconds()
        if abs(drift) > self.TOLERANCE:
            return drift
        if ahead > self.TOLERANCE:  # several small steps back add up
            return -ahead
        self._wall, self._monotonic = wall, monotonic
        return 0.0

    def _at(self, monotonic: float) -> datetime:
        return self._wall + timedelta(seconds=monotonic - self._monotonic)


def _readings() -> tuple[datetime, float]:
    """Return the wall clock and the monotonic clock, which stops while the machine sleeps."""
    while True:
        before = time.monotonic()
        wall = datetime.now(UTC)
        after = time.monotonic()
        # The process may have been stopped between two readings.
        if after - before < SteadyClock.TOLERANCE / 10:
            return wall, after
