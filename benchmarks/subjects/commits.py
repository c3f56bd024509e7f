"""Record when a subject that listens has committed its events."""

import threading

_SECONDS = 120.0


class Commits:
    """Collects commits, in the order of the events.

    Args:
        expected: the number of events that will come.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._changed = threading.Condition()
        self._commits: list[tuple[int, float]] = []
        self._count = 0

    def add(self, events: int, at: float) -> None:
        """Record that the next events are durable since `at`, in seconds since the epoch."""
        with self._changed:
            self._commits.append((events, at))
            self._count += events
            self._changed.notify_all()

    def poll(self) -> dict[str, list[tuple[int, float]]]:
        """Wait until all events are committed, and return the size and time of each commit."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= self._expected, _SECONDS):
                raise TimeoutError(f"{self._count} of {self._expected} events were recorded")
            return {"commits": self._commits}
