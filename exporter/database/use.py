"""Each use of a database: a turn, a look at SQLite's file, and errors of one line."""

import sqlite3
from collections.abc import Callable
from types import TracebackType

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from exporter.clock import elapsed
from exporter.database.circuit_breaker import CircuitBreaker
from exporter.database.errors import translated
from exporter.database.sqlite_file import SqliteFile
from exporter.database.turn import FairLock
from exporter.errors import DatabaseError

_TURN_SECONDS = 10.0  # how long a thread waits for the other threads of its process


class Access:
    """What all uses of a database have in common; see `Use`.

    Args:
        url: of the database.
        write: whether it is written to.
        file: SQLite's file, if somebody has to watch it.
        probe: reaches the database, or raises a DatabaseError.
    """

    def __init__(
        self, url: URL, *, write: bool, file: SqliteFile | None, probe: Callable[[], None]
    ) -> None:
        self.url = url
        self.write = write
        self.file = file
        # SQLite admits one writer. The threads of this process queue here rather than in SQLite's
        # busy handler, which polls and is not fair: no poll waits longer than for one burst of
        # events, however many bursts there are.
        self.turn = FairLock() if url.get_backend_name() == "sqlite" else None
        self.breaker = CircuitBreaker(probe)


class Use:
    """One use of a database, a context manager; on SQLite, one thread at a time has one.

    It is a class because `contextlib`'s generators would slow a small poll.

    Args:
        access: to the database.
        probe: true when the circuit breaker itself calls; other callers check it first.

    Raises:
        DatabaseError: the circuit is open, SQLite's file is no longer the database, or SQLAlchemy
            or the driver has failed in the block.
    """

    __slots__ = ("_access", "_began", "_probe")

    def __init__(self, access: Access, *, probe: bool = False) -> None:
        self._access = access
        self._probe = probe

    def __enter__(self) -> None:
        access = self._access
        if not self._probe:
            access.breaker.check()
        if access.turn is not None and not access.turn.acquire(timeout=_TURN_SECONDS):
            raise DatabaseError(f"database {access.url.database}: busy with other accounts' polls")
        self._began = elapsed()
        try:
            if not self._probe:
                access.breaker.check()  # it may have opened while this thread waited
            if access.file is not None:
                access.file.open()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        access = self._access
        try:
            if error is not None:
                self._fail(error)
            elif access.file is not None:
                access.file.used()
        finally:
            if access.turn is not None:
                access.turn.release()

    def _fail(self, error: BaseException) -> None:
        """Translate an error, and tell the circuit breaker; return if it is not the database's."""
        failure = error
        if isinstance(error, (SQLAlchemyError, sqlite3.Error)):
            failure = translated(error, self._access.url, write=self._access.write)
            failure.__cause__ = error
        if isinstance(failure, DatabaseError) and not self._probe:
            self._access.breaker.note(failure, seconds=elapsed() - self._began)
        if failure is not error:
            raise failure
