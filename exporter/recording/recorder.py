"""The parts that a process shares to record any number of accounts; `wiring` makes it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from exporter.database.database import Database
from exporter.errors import SpoolError
from exporter.history.store import Store
from exporter.kalshi.session import SignedSession
from exporter.recording.poller import Poller
from exporter.spool.spool import Spool

if TYPE_CHECKING:
    from exporter.recording.stream_writer import StreamPlan

_DRAIN_SECONDS = 5.0

MAX_CONCURRENT_POLLS = 64
"""Threads that poll at the same time. An exchange that hangs holds each for a whole deadline."""


class Recorder:
    """The database, the spool and the pollers of one process, and their common life.

    A context manager; `close` ends all connections.

    Args:
        database, store, spool: what the pollers write to.
        sessions: what the pollers send with.
        pollers: one for each account.
        make_stream: returns what a daemon listens to, and where what it hears is kept. `run-once`
            needs it only if events wait in the spool: importing it takes time.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        spool: Spool,
        sessions: Sequence[SignedSession],
        pollers: Sequence[Poller],
        make_stream: "Callable[[], StreamPlan]",
    ) -> None:
        self.spool = spool
        self.pollers = tuple(pollers)
        self._make_stream = make_stream
        self._cooldowns = {poller.account: poller.cooldown for poller in pollers}
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
        """Maintain the database; call this between two polls, which it does not disturb."""
        self._store.maintain()

    @cached_property
    def stream(self) -> "StreamPlan":
        """What a daemon listens to, and where what it hears is kept."""
        return self._make_stream()

    def cooldown(self, account: str) -> float:
        """Return the seconds for which an account's polls must not ask the exchange; 0 if none."""
        cooldown = self._cooldowns.get(account)
        return 0.0 if cooldown is None else cooldown.remaining()

    def drain_events(self) -> None:
        """Write the events that wait in the spool, for a few seconds, as a daemon's streams do."""
        with suppress(SpoolError):  # the polls report it
            if self.spool.is_there():
                self.stream.target.drain_all(_DRAIN_SECONDS)

    def release(self) -> None:
        """Release all claims, so that other exporters need not wait until they expire."""
        self._store.release()

    def close(self) -> None:
        """Release all claims; close all connections, the spool and the database."""
        self.release()
        for session in self._sessions:
            session.close()
        self.spool.close()
        self._database.close()
