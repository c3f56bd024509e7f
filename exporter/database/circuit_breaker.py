"""Spares everybody the wait for a database that somebody has just waited for in vain."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exporter.clock import elapsed
from exporter.errors import DatabaseError

_LONG = 1.0  # seconds: a database that refuses does so sooner
_PAUSE = 1.0  # seconds between two attempts to reach it


class CircuitBreaker:
    """Whether a database that many threads use answers at all.

    A server that hangs, or a lock that another program does not give back, is waited for by the
    first. From then on a thread of its own waits, and all others are refused at once until that
    one gets an answer: they spool their polls in time, however many they are.

    Args:
        ask: reaches the database, or raises a DatabaseError.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._error: DatabaseError | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def check(self) -> None:
        """Go on, unless the database is silent.

        Raises:
            DatabaseError: it is.
        """
        if (error := self._error) is not None:
            raise type(error)(str(error))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Use the database, unless it is silent; find out whether it is.

        Raises:
            DatabaseError: it is silent. Its errors, `DatabaseError` already, pass through.
        """
        self.check()
        began = elapsed()
        try:
            yield
        except DatabaseError as error:
            if elapsed() - began > _LONG and not _said(error):
                self._open(error)
            raise

    def close(self) -> None:
        """Wait for it no more."""
        self._closed.set()

    def _open(self, error: DatabaseError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
                threading.Thread(target=self._listen, name="silence", daemon=True).start()

    def _listen(self) -> None:
        while not self._closed.wait(_PAUSE):
            try:
                self._ask()
            except DatabaseError as error:
                self._error = error
            else:
                break
        self._error = None


def _said(error: DatabaseError) -> bool:
    """Whether the server itself said so, of one statement: others may fare better."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) is not None
