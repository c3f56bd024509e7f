"""Write what connections hear: events and the coverage that they prove, in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from msgspec.structs import replace
from sqlalchemy import Connection, Executable, text

from exporter.causes import NOT_KEPT
from exporter.database.database import Database, set_statement_timeout
from exporter.history import events, stream_corrections, stream_coverage, undecided_events
from exporter.history import head as heads
from exporter.history.schema import order_group_events
from exporter.history.stream_coverage import Span
from exporter.history.stream_stretches import TICK
from exporter.model import OrderGroupEvent, StreamBatch

_FEW = 10_000  # events that are written within the time that a statement has


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWritten:
    """What a batch left in the database.

    Attributes:
        added: events that were new: no other daemon, and no earlier connection, had heard them.
    """

    added: int


class StreamStore:
    """A writer of the streams of any number of accounts; for several threads at a time.

    Args:
        database: to write to.
        prepare: makes sure that the schema is right, before the database is first used.
    """

    def __init__(self, database: Database, *, prepare: Callable[[], None] | None = None) -> None:
        self._database = database
        self._prepare = prepare or (lambda: None)

    def begin(self, account: str, since: datetime, *, now: datetime) -> datetime:
        """Return the `since` of a connection that has subscribed for an account.

        It is as given, but later than what is claimed already. What is claimed of the future is
        taken back: it was dated by a clock that has been set back since. If the database is away,
        use `since` as it is, and call this later.

        Args:
            account: whose stream.
            since: when the connection subscribed, UTC.
            now: the present instant, UTC, by a clock that the exchange has just accepted.

        Raises:
            DatabaseError: the database failed.
        """
        self._prepare()
        with self._database.transaction() as connection:
            if stream_corrections.is_dated_ahead(connection, account, now):
                heads.lock(connection, account)
                stream_coverage.lock_latest(connection, account)
                stream_corrections.take_back_ahead(connection, account, now)
            return stream_coverage.begin(connection, account, since)

    def write(
        self, batch: StreamBatch, *, still_waits: Callable[[], bool] | None = None
    ) -> StreamWritten:
        """Write a batch, whole or not at all; a batch that is written already adds nothing.

        Args:
            batch: its events have their occurrences numbered, see `Occurrences`. Any number of
                them; what has gathered in a queue is best written at once.
            still_waits: of a batch from the spool, whether it is there now. Another process may
                have written it, and then one that takes back what it claims. It is called while
                the transaction keeps all other batches of the account waiting.

        Raises:
            SchemaError: the schema is not this version's.
            PoisonPollError: the database can never hold what the batch holds.
            DatabaseError: the database failed. If the connection was lost during the commit,
                nobody knows whether the batch is written: write or spool it again.
        """
        self._prepare()
        if not self._database.is_sqlite and _is_plain(batch) and still_waits is None:
            added = self._write_in_one_statement(batch)
            if added is not None:
                return StreamWritten(added=added)
        with self._database.transaction() as connection:
            set_statement_timeout(connection, rows=len(batch.events))
            return StreamWritten(added=_write(connection, batch, still_waits))

    def _write_in_one_statement(self, batch: StreamBatch) -> int | None:
        """Write a batch on Postgres in one message; None, and nothing, if it needs more."""
        row = self._database.execute_one(
            _one_statement(),
            {
                "account": batch.account,
                "since": batch.since,
                "until": batch.until,
                "heard_at": events.last_received(batch.events),
                **events.arrays(events.rows_of(batch.events)),
            },
        )
        added, extended = row or (0, False)
        return added if extended else None


def _is_plain(batch: StreamBatch) -> bool:
    """Return whether a batch only adds some events to the latest stretch, as nearly all do."""
    return (
        batch.since is not None
        and batch.cause is None
        and not batch.own_groups_only
        and len(batch.events) <= _FEW
        and all(event.event_at is not None for event in batch.events)
    )


def _write(
    connection: Connection, batch: StreamBatch, still_waits: Callable[[], bool] | None
) -> int:
    """Write a batch in a transaction, if it still waits; return how many events it added."""
    account = batch.account
    if connection.dialect.name == "sqlite" and _is_plain(batch):
        # SQLite lets one writer in at a time, as the lock below does on Postgres.
        if still_waits is not None and not still_waits():
            return 0
        added = events.add(connection, order_group_events, account, batch.events)
        if stream_coverage.extend_latest(connection, account, _span(batch, added=added)):
            return added
        heads.lock(connection, account)
        _claim(connection, batch, added=added, ended_at=batch.until)
        return added
    # Both before any event is added, in this order: whoever waits holds no event that another
    # daemon waits for.
    head = heads.lock(connection, account)
    if still_waits is not None and not still_waits():
        return 0
    stream_coverage.lock_latest(connection, account)
    heard: Sequence[OrderGroupEvent] = batch.events
    if batch.own_groups_only:
        heard, unclear = undecided_events.own(connection, account, heard)
        undecided_events.keep(connection, head, unclear)
        undecided_events.adopt(connection, account)
    added = events.add(connection, order_group_events, account, heard)
    claimed = _up_to_what_is_decided(connection, batch) if batch.own_groups_only else batch
    _claim(connection, claimed, added=added, ended_at=batch.until)
    return added


def _up_to_what_is_decided(connection: Connection, batch: StreamBatch) -> StreamBatch:
    """Return the batch with the span that may be claimed while events are undecided.

    An undecided event happened after the batch before, but nobody knows when by this machine's
    clock: no span goes on while one waits.
    """
    account = batch.account
    undecidable = undecided_events.decide(connection, account)
    if batch.since is None:
        return batch
    if undecidable is not None:
        start = replace(batch, until=batch.since, cause=None)
        _claim(connection, start, added=0, ended_at=batch.since)
        since = stream_coverage.begin(connection, account, undecidable + TICK)
        stream_coverage.report_end(connection, account, NOT_KEPT, since - TICK)
        batch = replace(batch, since=since, until=max(batch.until, since))
    if undecided_events.are_waiting(connection, account):
        assert batch.since is not None  # noqa: S101  # as above
        return replace(batch, until=batch.since)
    return batch


def _claim(connection: Connection, batch: StreamBatch, *, added: int, ended_at: datetime) -> None:
    if batch.since is not None and batch.since <= batch.until:
        stream_coverage.claim(connection, batch.account, _span(batch, added=added))
    if batch.cause is not None:
        if batch.claimed_until is not None:
            stream_corrections.take_back(
                connection,
                batch.account,
                after=ended_at,
                until=batch.claimed_until,
                cause=batch.cause,
            )
        stream_coverage.report_end(connection, batch.account, batch.cause, ended_at)


def _span(batch: StreamBatch, *, added: int) -> Span:
    assert batch.since is not None  # noqa: S101  # nothing is claimed without
    return Span(
        since=batch.since,
        until=batch.until,
        events=added,
        last_event_at=events.last_received(batch.events),
        cause=batch.cause,
    )


@cache
def _one_statement() -> Executable:
    """Return what `_write` does to a plain batch, if the latest stretch takes its span."""
    return text(
        f"""
        WITH latest AS (
            SELECT started_at FROM stream_coverage
            WHERE account = :account AND is_latest AND ended_at >= :since
              AND (started_at <= :since OR gap_cause = '{NOT_KEPT}')
            FOR UPDATE
        ), added AS (
            {events.insert_on_postgres(condition="EXISTS (SELECT 1 FROM latest)")}
            RETURNING 1
        ), extended AS (
            UPDATE stream_coverage c
            SET ended_at = GREATEST(c.ended_at, :until),
                events = c.events + (SELECT COUNT(*) FROM added),
                last_event_at = GREATEST(c.last_event_at, CAST(:heard_at AS timestamptz))
            FROM latest
            WHERE c.account = :account AND c.started_at = latest.started_at
            RETURNING 1
        )
        SELECT (SELECT COUNT(*) FROM added), EXISTS (SELECT 1 FROM extended)
        """
    )
