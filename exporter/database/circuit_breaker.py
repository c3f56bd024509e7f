"""Circuit breaker: once one caller has timed out on the database, others fail fast."""

import threading
from collections.abc import Callable

from exporter.errors import DatabaseError

_LONG = 1.0  # seconds; an error that took longer is a time-out, not a refusal
_PAUSE = 1.0  # seconds between two probes


class CircuitBreaker:
    """Keep many threads from waiting for a database that does not respond.

    The first thread waits until its time-out and opens the circuit. While it is open, a background
    thread probes the database and all other callers fail at once, so that they spool their polls in
    time. The first probe that succeeds closes the circuit.

    Args:
        probe: reaches the database, or raises a DatabaseError.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._error: DatabaseError | None = None  # set while the circuit is open
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def check(self) -> None:
        """Return if the circuit is closed.

        Raises:
            DatabaseError: it is open; the error is of the latest probe's kind and text.
        """
        if (error := self._error) is not None:
            raise type(error)(str(error))

    def note(self, error: DatabaseError, seconds: float) -> None:
        """Open the circuit if an error is a time-out.

        Args:
            error: what a use of the database ended with.
            seconds: how long that use took.
        """
        if seconds > _LONG and not _is_from_server(error):
            self._open(error)

    def close(self) -> None:
        """Stop probing."""
        self._stopped.set()

    def _open(self, error: DatabaseError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
                try:
                    threading.Thread(target=self._run, name="circuit breaker", daemon=True).start()
                except RuntimeError:
                    self._error = None  # without a thread, nothing would close the circuit

    def _run(self) -> None:
        try:
            while not self._stopped.wait(_PAUSE):
                try:
                    self._probe()
                except DatabaseError as error:
                    self._error = error
                else:
                    break
        finally:
            self._error = None


def _is_from_server(error: DatabaseError) -> bool:
    """Return whether the server sent the error: it responds, so other statements may succeed."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) is not None
