"""What one process shares to record any number of accounts; `wiring` makes it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from exporter.database.database import Database
from exporter.history.store import Store
from exporter.kalshi.session import SignedSession
from exporter.recording.poller import Poller
from exporter.spool.spool import Spool

MAX_CONCURRENT_POLLS = 64
"""Threads that poll at the same time. An exchange that hangs holds each for a whole deadline."""


class Recorder:
    """The database, the spool and the pollers of one process, and their common life.

    A context manager; `close` ends all connections.

    Args:
        database, store, spool: what the pollers write to.
        sessions: what the pollers send with.
        pollers: one for each account.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        spool: Spool,
        sessions: Sequence[SignedSession],
        pollers: Sequence[Poller],
    ) -> None:
        self.spool = spool
        self.pollers = tuple(pollers)
        self._database = database
        self._store = store
        self._sessions = tuple(sessions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Make sure that the database's schema is right, before anything is asked.

        Raises:
            SchemaError: it is not this version's.
            DatabaseError: the database is away.
        """
        self._store.prepare()

    def maintain(self) -> None:
        """Do for the database what is best done between two polls; it disturbs none."""
        self._store.maintain()

    def close(self) -> None:
        """Let go of all claims; close all connections, the spool and the database."""
        self._store.release()
        for session in self._sessions:
            session.close()
        self.spool.close()
        self._database.close()
