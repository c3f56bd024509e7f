"""A lock that goes to whoever has waited longest."""

import threading
from collections import deque


class FairLock:
    """Let threads in one at a time, in the order in which they came.

    A `threading.Lock` goes to whichever thread runs when it becomes free. A thread that takes it
    again at once, as a writer of many events does, then keeps it from all others for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()  # each is released to let its thread in

    def acquire(self, timeout: float) -> bool:
        """Wait for the lock, at most this many seconds; return whether this thread has it."""
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=timeout):
            return True
        with self._guard:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True  # it was handed over at the last moment

    def release(self) -> None:
        """Hand the lock to the thread that has waited longest, if one waits."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
