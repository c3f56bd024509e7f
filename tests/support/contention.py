"""How much longer work takes while other programs run, for limits that busy machines can keep.

A timed test multiplies its limit by the factor that was measured meanwhile. On an idle machine the
factor is 1.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WORK_SECONDS = 0.02  # CPU time of a probe: longer than a slice of the kernel's scheduler
_PAUSE_SECONDS = 0.2


class Contention:
    """A measurement that is under way.

    Attributes:
        factor: elapsed time by CPU time of all probes so far; 1 or more.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._elapsed = self._used = 0.0

    def probe(self) -> None:
        """Work for a moment, and compare the time elapsed with the time used."""
        began, used = time.monotonic(), time.thread_time()
        while time.thread_time() - used < _WORK_SECONDS:
            pass
        self._elapsed += time.monotonic() - began
        self._used += time.thread_time() - used
        self.factor = max(1.0, self._elapsed / self._used)


@contextmanager
def measured_contention() -> Iterator[Contention]:
    """Measure while the block runs, with a tenth of a core."""
    contention = Contention()
    done = threading.Event()

    def measure() -> None:
        contention.probe()
        while not done.wait(_PAUSE_SECONDS):
            contention.probe()

    thread = threading.Thread(target=measure, name="contention")
    thread.start()
    try:
        yield contention
    finally:
        done.set()
        thread.join()
