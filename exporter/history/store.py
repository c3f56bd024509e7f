"""The one place that writes history: a poll becomes rows in one transaction, or none does."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection

from exporter.database.database import Database, set_statement_timeout
from exporter.errors import DatabaseError, SchemaError
from exporter.history import claim as claims
from exporter.history import head as heads
from exporter.history import snapshots, undecided_events
from exporter.history.advance import advance, advance_at_once, insert_poll
from exporter.history.claim import ALWAYS, ClaimPolicy
from exporter.history.diff import OpenSnapshots, after, compare
from exporter.history.head import Head
from exporter.history.rows import (
    NOT_OBSERVED,
    NOTHING_CHANGED,
    WriteResult,
    counts_of,
    row_of,
    superseded,
    update_poll,
    written_before,
)
from exporter.model import Observation, Poll


class Store:
    """A writer of the polls of any number of accounts.

    Args:
        database: to write to.
        owner: names this process among all exporters.
        prepare: called with the database before its first use, to make sure that its schema is
            right. That may be long after the start, if the database is away.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        prepare: Callable[[Database], None] | None = None,
    ) -> None:
        self._database = database
        self._owner = owner
        self._prepare = prepare
        self._prepared: int | None = None  # the database's generation
        self._preparing = threading.Lock()
        self._claimed: set[str] = set()
        # The open snapshots of each account, cached with the observation that they belong to. The
        # head's version alone would not identify them: it repeats if a backup is restored under a
        # running process.
        self._known: dict[str, tuple[tuple[int, datetime], OpenSnapshots]] = {}

    def prepare(self) -> None:
        """Make sure that the schema is right, once for each file that becomes the database.

        Raises:
            SchemaError: the schema is not this version's.
            DatabaseError: the database failed; the next call tries again.
        """
        if self._prepared == self._database.generation:
            return
        with self._preparing:
            generation = self._database.generation
            if self._prepared == generation:
                return
            if generation:
                self._prepare_again()
            elif self._prepare is not None:
                self._prepare(self._database)
            self._prepared = generation

    def _prepare_again(self) -> None:
        """Prepare a file that has taken the place of the one that was open.

        All that is cached from the former file is dropped. A person must put the new file there:
        the exporter does not create a database in place of one that was deleted.
        """
        self._database.require_file()
        self._known.clear()
        if self._prepare is not None:
            try:
                self._prepare(self._database)
            except SchemaError as error:
                # A running daemon must not end: somebody may still be copying the file.
                raise DatabaseError(str(error)) from error

    def maintain(self) -> None:
        """Maintain the database; call this between two polls, which it does not disturb."""
        self._database.maintain()

    def claim(
        self, account: str, *, now: datetime, lease: float, policy: ClaimPolicy = ALWAYS
    ) -> Head:
        """Read an account's head and claim the account; see `exporter.history.claim.claim`.

        Raises:
            BusyError: another exporter is polling the account, or the policy says to leave it
                alone; the text says whose claim it is and until when.
            SchemaError: the schema is not this version's.
            DatabaseError: the database failed.
        """
        self.prepare()
        head = claims.claim(
            self._database, account, owner=self._owner, now=now, lease=lease, policy=policy
        )
        self._claimed.add(account)
        return head

    def release(self) -> None:
        """Release every claim of this process, just before it ends.

        If the database is away, the claims stay until they expire.
        """
        for account in sorted(self._claimed):
            with suppress(DatabaseError):
                claims.release(self._database, account, owner=self._owner)
        self._claimed.clear()

    def note_loss(self, account: str, *, polls: int, last_started_at: datetime) -> None:
        """Note polls that neither the database nor the spool could keep.

        Raises:
            DatabaseError: the database failed.
        """
        with self._database.transaction() as connection:
            heads.note_loss(connection, account, polls=polls, last_started_at=last_started_at)

    def write(
        self,
        poll: Poll,
        *,
        head: Head | None,
        interval: float,
        confirm_removal: int,
        cooldown: float = 0.0,
    ) -> WriteResult:
        """Write one poll, whole or not at all, and end this process's claim on the account.

        Args:
            poll: what happened.
            head: as `claim` returned it before the request. None for a poll that waited in the
                spool; if that has been written already, its row stays as it is.
            interval: seconds between polls of this account.
            confirm_removal: how many polls in a row must miss a group before it is removed.
            cooldown: seconds from the end of a failed poll for which the exchange asked for a
                pause; other exporters wait too.

        Raises:
            DatabaseError: the database failed. If the connection was lost during the commit,
                nobody knows whether the poll is written: spool it, which finds out.
        """
        written = self._write(
            poll, head, interval=interval, confirm_removal=confirm_removal, cooldown=cooldown
        )
        if written.outcome != "superseded":
            self._claimed.discard(poll.account)
        return written

    def _write(
        self,
        poll: Poll,
        head: Head | None,
        *,
        interval: float,
        confirm_removal: int,
        cooldown: float,
    ) -> WriteResult:
        if head is not None and self._repeated(poll, head, interval):
            return WriteResult(outcome="ok", group_count=head.group_count, **NOTHING_CHANGED)
        with self._database.transaction() as connection:
            late = False
            if head is None:
                # The lock comes before the look-up, to wait for a commit that is still under way.
                head = heads.lock(connection, poll.account)
                written = written_before(connection, poll)
                if written is not None:
                    return written
                # The poll did not read the head before its request. It may still be written if its
                # request came after the last observation in the database.
                late = head.observed_at is not None and head.observed_at >= poll.started_at
            if poll.observation is None:
                insert_poll(connection, row_of(poll))
                cooled_down_at = poll.finished_at + timedelta(seconds=cooldown)
                heads.count_failure(
                    connection,
                    poll.account,
                    owner=self._owner,
                    outcome=poll.outcome,
                    started_at=poll.started_at,
                    cooldown_until=cooled_down_at if cooldown else None,
                )
                return WriteResult(outcome=poll.outcome)
            # Without groups, the poll repeats an earlier response, and another may lie in between.
            repeats_another = (
                poll.observation.groups is None and poll.observation.digest != head.digest
            )
            if late or repeats_another:
                insert_poll(connection, row_of(poll, outcome="superseded"))
                return superseded(connection, poll)
            written, known = self._write_observation(
                connection,
                poll,
                poll.observation,
                head=head,
                interval=interval,
                confirm_removal=confirm_removal,
            )
        # The cache is updated only after the commit.
        if known is not None:
            self._remember(head, poll.observation, known)
        return written

    def _repeated(self, poll: Poll, head: Head, interval: float) -> bool:
        """Write a poll that saw the latest response again, if nothing else has to be written."""
        seen = poll.observation
        if seen is None or seen.digest != head.digest:
            return False
        observed_at = heads.next_instant(head, seen.observed_at)
        row = row_of(poll, observed_at=observed_at, group_count=head.group_count, **NOTHING_CHANGED)
        if not advance_at_once(self._database, head, row, owner=self._owner, interval=interval):
            return False  # nothing was written
        known = self._known_at(head)
        if known is not None:
            self._remember(head, seen, known)
        return True

    def _remember(self, head: Head, seen: Observation, known: OpenSnapshots) -> None:
        observed_at = heads.next_instant(head, seen.observed_at)
        self._known[head.account] = ((head.version + 1, observed_at), known)

    def _write_observation(
        self,
        connection: Connection,
        poll: Poll,
        observation: Observation,
        *,
        head: Head,
        interval: float,
        confirm_removal: int,
    ) -> tuple[WriteResult, OpenSnapshots | None]:
        observed_at = heads.next_instant(head, observation.observed_at)
        groups = observation.groups
        group_count = head.group_count if groups is None else len(groups)
        row = row_of(poll, observed_at=observed_at, group_count=group_count, **NOTHING_CHANGED)
        poll_id, advanced = advance(connection, head, row, owner=self._owner, interval=interval)
        if not advanced:
            update_poll(connection, poll, poll_id, outcome="superseded", **NOT_OBSERVED)
            return superseded(connection, poll), None

        if groups is None or observation.digest == head.digest:
            unchanged = WriteResult(outcome="ok", group_count=group_count, **NOTHING_CHANGED)
            return unchanged, self._known_at(head)

        known = self._known_at(head) or snapshots.read_open(connection, head.account)
        changes = compare(
            known,
            groups,
            confirmed_since=snapshots.confirmed_since(connection, head, known, confirm_removal),
        )
        counts = counts_of(changes)
        if changes:
            set_statement_timeout(connection, rows=len(changes))
            snapshots.write(connection, head, changes, observed_at=observed_at, poll_id=poll_id)
            if changes.added:
                undecided_events.adopt(connection, head.account)
            update_poll(connection, poll, poll_id, **counts)
            known = after(known, groups, changes, observed_at=observed_at)
        # While a group is missing, the same response again means one more miss.
        digest = None if known.missing else observation.digest
        heads.remember_digest(connection, head.account, digest)
        written = WriteResult(
            outcome="ok",
            group_count=group_count,
            **counts,
            found=counts["added"] if head.observed_at is None else 0,
            missing=len(known.missing),
        )
        return written, known

    def _known_at(self, head: Head) -> OpenSnapshots | None:
        observation, known = self._known.get(head.account, (None, None))
        return known if observation == (head.version, head.observed_at) else None


__all__ = ["Store", "WriteResult"]
