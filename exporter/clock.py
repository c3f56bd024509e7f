"""The two clocks: instants that never run backwards, and elapsed time that no step changes."""

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
