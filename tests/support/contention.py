"""Measures how much other programs slow down a test, so that busy machines can keep its limits.

A timed test multiplies its limit by the factor that was measured during the test. On an idle
machine the factor is 1.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WORK_SECONDS = 0.02  # CPU time of a probe: longer than a slice of the kernel's scheduler
_PAUSE_SECONDS = 0.2


class Contention:
    """A measurement in progress.

    Attributes:
        factor: the elapsed time of all probes so far divided by their CPU time; 1 or more.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._elapsed = self._used = 0.0

    def probe(self) -> None:
        """Use the CPU for a moment, and update the factor."""
        began, used = time.monotonic(), time.thread_time()
        while time.thread_time() - used < _WORK_SECONDS:
            pass
        self._elapsed += time.monotonic() - began
        self._used += time.thread_time() - used
        self.factor = max(1.0, self._elapsed / self._used)


@contextmanager
def measured_contention() -> Iterator[Contention]:
    """Yield a measurement that goes on during the block, and takes a tenth of a core."""
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
