"""The two clocks: instants that never run backwards, and elapsed time that no step changes."""

import threading
import time
from datetime import UTC, datetime, timedelta

# Linux's CLOCK_MONOTONIC stands still while the machine sleeps; CLOCK_BOOTTIME does not, so that
# an answer received before a suspend is seen to be old after it. On macOS CLOCK_MONOTONIC goes on.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_TICK = timedelta(microseconds=1)


def elapsed() -> float:
    """Seconds since an arbitrary point, sleep included, whatever happens to the wall clock."""
    return time.clock_gettime(_ELAPSED)


class Clock:
    """The wall clock in UTC, made strictly increasing within this process.

    When the wall clock is set back, instants advance by one microsecond each until it has caught
    up: the order of what was seen is worth more than the length of the hour that came twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The present instant, timezone-aware in UTC, later than every one returned before."""
        with self._lock:
            self._last = max(datetime.now(UTC), self._last + _TICK)
            return self._last
