"""Keep one account's polls: in the database, or in the spool while that is not available."""

from typing import Literal

import msgspec

from exporter.errors import DatabaseError, Exit, SpoolError
from exporter.history.head import Head
from exporter.history.store import Store, WriteResult
from exporter.model import Poll
from exporter.spool.spool import Spool


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The timing of one account's polls: `interval` and `deadline` in seconds."""

    interval: float
    deadline: float
    confirm_removal: int


class KeepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a poll's row, and the result of writing it.

    Attributes:
        kept: where the row is.
        exit_code: of writing it, whatever the exchange's response was.
        written: what it left in the database; None if the row is not there.
        reason: one line, unless all is well.
        database_error: why the database could not be used, if that is why.
    """

    kept: Literal["database", "spool", "nowhere"]
    exit_code: Exit
    written: WriteResult | None = None
    reason: str | None = None
    database_error: DatabaseError | None = None


class Keeper:
    """Write the polls of one account, or spool them.

    Args:
        account: its name.
        timing: decides which polls extend a stretch of coverage, and when a group is removed.
        store, spool: where polls are kept.
    """

    def __init__(self, account: str, *, timing: Timing, store: Store, spool: Spool) -> None:
        self._account = account
        self._timing = timing
        self._store = store
        self._spool = spool

    def keep(
        self,
        poll: Poll,
        head: Head | None,
        *,
        retry_after: float,
        database_error: DatabaseError | None,
    ) -> KeepResult:
        """Write a poll to the database, or else to the spool.

        Args:
            poll: what happened.
            head: as it was claimed; None if the poll must be spooled.
            retry_after: seconds for which the exchange asked not to be polled.
            database_error: why the account could not be claimed, if the poll is spooled for that;
                None if it is spooled because older polls still wait.
        """
        if head is not None:
            try:
                return _in_database(self.write(poll, head, retry_after=retry_after))
            except DatabaseError as error:
                database_error = error
        reason = str(database_error or "older polls are still being written")
        try:
            self._spool.put(poll)
        except SpoolError as error:
            return KeepResult(
                kept="nowhere",
                exit_code=error.exit_code,
                reason=f"{reason}; {error}",
                database_error=database_error,
            )
        exit_code = Exit.TEMPORARY
        if database_error is not None and not database_error.retryable:
            exit_code = database_error.exit_code
        return KeepResult(
            kept="spool", exit_code=exit_code, reason=reason, database_error=database_error
        )

    def write(self, poll: Poll, head: Head | None, *, retry_after: float = 0.0) -> WriteResult:
        """Write a poll to the database.

        Args:
            poll: what happened.
            head: as it was claimed; None for a poll that waited in the spool.
            retry_after: as for `keep`.

        Raises:
            DatabaseError: the database failed.
        """
        return self._store.write(
            poll,
            head=head,
            interval=self._timing.interval,
            confirm_removal=self._timing.confirm_removal,
            cooldown=retry_after,
        )

    def known_digest(self, head: Head | None) -> str | None:
        """Return the digest of the latest response, as far as the next poll may build on it."""
        if head is not None:
            return head.digest
        try:
            return self._spool.known_digest(self._account)
        except SpoolError:
            return None  # `Spool.put` will meet the same error, and report it.


def _in_database(written: WriteResult) -> KeepResult:
    if written.outcome == "superseded":
        return KeepResult(
            kept="database",
            exit_code=Exit.TEMPORARY,
            written=written,
            reason="another exporter was faster",
        )
    return KeepResult(kept="database", exit_code=Exit.OK, written=written)
