"""When a subject that listens had committed what it heard."""

import threading

_SECONDS = 120.0


class Commits:
    """Notes commits, in the order of the events.

    Args:
        expected: how many events will come.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._changed = threading.Condition()
        self._commits: list[tuple[int, float]] = []
        self._count = 0

    def add(self, events: int, at: float) -> None:
        """Note that the next events are durable, and since when, in seconds since the epoch."""
        with self._changed:
            self._commits.append((events, at))
            self._count += events
            self._changed.notify_all()

    def poll(self) -> dict[str, list[tuple[int, float]]]:
        """Wait until all are committed; return how many events each commit had, and when."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= self._expected, _SECONDS):
                raise TimeoutError(f"{self._count} of {self._expected} events were recorded")
            return {"commits": self._commits}
