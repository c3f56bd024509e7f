"""Batches of events that wait for the database: in the spool's file beside the polls, in order."""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from exporter.causes import NOT_KEPT, StreamGapCause
from exporter.errors import SpoolError
from exporter.model import OrderGroupEvent, StreamBatch
from exporter.spool.spool import Spool

# No row has these numbers.
_LOSS = 0  # a batch that stands for a loss
_REPORT = -1  # a batch that says why others are missing
_TICK = timedelta(microseconds=1)

_COLUMNS = "id, own_groups_only, since, until, cause, claimed_until, packed"


class _Loss(msgspec.Struct, frozen=True):
    """Batches that the spool could not keep: the first and the last instant that is missing."""

    own_groups_only: bool
    first: datetime
    last: datetime


class StreamSpool:
    """The waiting batches of any number of accounts; for several threads and processes at a time.

    Args:
        spool: whose file and bounds it shares.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._database = spool.database
        self._losses: dict[str, _Loss] = {}  # those that the file could not record

    def put(self, batch: StreamBatch) -> None:
        """Keep a batch, after all others of its account.

        A batch without events that continues the last one kept takes no room of its own. After a
        loss, no span reaches back before its end.

        Raises:
            SpoolError: there is no room, or the disk failed. What was kept before is still there,
                and the loss is among the `batches`.
        """
        try:
            is_kept = self._put(batch)
        except SpoolError:
            self._losses[batch.account] = _with(self._losses.get(batch.account), batch)
            raise
        if not is_kept:
            raise SpoolError("spool: it has reached spool.max_size and keeps what it holds")

    def _put(self, batch: StreamBatch) -> bool:
        with self._spool.lend(to_write=True) as connection:
            # This row is inserted before it is needed, because noting a loss must need no room.
            connection.execute(
                "INSERT INTO lost_batches VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                # The texts are as long as they will ever be, so that the row never grows.
                (self._database, batch.account, batch.own_groups_only, "", " " * 32),
            )
            loss = self._loss(connection, batch.account)
        if loss is not None and batch.since is not None and batch.since <= loss.last:
            batch = replace(batch, since=loss.last + _TICK)
        try:
            with self._spool.lend(to_write=True) as connection:
                if not self._continue_last(connection, batch):
                    self._insert(connection, batch)
        except SpoolError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                raise
        else:
            return True
        loss = _with(loss, batch)
        with self._spool.lend(to_write=True) as connection:
            connection.execute(
                "UPDATE lost_batches SET first = ?, last = ? WHERE database = ? AND account = ?",
                (loss.first.isoformat(), loss.last.isoformat(), self._database, batch.account),
            )
        return False

    def _continue_last(self, connection: sqlite3.Connection, batch: StreamBatch) -> bool:
        if batch.events or batch.since is None:
            return False
        return (
            connection.execute(
                "UPDATE batches SET until = ?, cause = ?, claimed_until = ?"
                " WHERE id = (SELECT MAX(id) FROM batches WHERE database = ? AND account = ?)"
                " AND since = ? AND cause IS NULL",
                (
                    batch.until.isoformat(),
                    batch.cause,
                    _text(batch.claimed_until),
                    self._database,
                    batch.account,
                    batch.since.isoformat(),
                ),
            ).rowcount
            > 0
        )

    def _insert(self, connection: sqlite3.Connection, batch: StreamBatch) -> None:
        packed = None
        if batch.events:
            packed = zlib.compress(msgspec.json.encode(batch.events), level=1)
        connection.execute(
            "INSERT INTO batches (database, account, own_groups_only, since, until, cause,"
            " claimed_until, events, packed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._database,
                batch.account,
                batch.own_groups_only,
                _text(batch.since),
                batch.until.isoformat(),
                batch.cause,
                _text(batch.claimed_until),
                len(batch.events),
                packed,
            ),
        )

    def batches(self, account: str) -> Iterator[tuple[int, StreamBatch]]:
        """Yield the account's batches in their order, each with the number to `remove` it by.

        For each loss there are batches that claim no coverage and have the cause `not_kept`: one at
        each gap, and one at the end. The same replaces a batch that cannot be read; later batches
        of its span then claim no coverage either.

        Raises:
            SpoolError: the disk failed; or, after all others were given, one cannot be read.
        """
        if not self._spool.is_there():
            if account in self._losses:
                yield _LOSS, _as_batch(account, self._losses[account])
            return
        with self._spool.lend(to_write=False) as connection:
            loss = self._loss(connection, account)
        last = 0
        reported: datetime | None = None
        unreadable: SpoolError | None = None
        broken: set[str] = set()  # the `since` of spans with an unreadable batch
        while (row := self._next(account, last)) is not None:
            last = row[0]
            try:
                batch = _decoded(account, row)
            except (msgspec.MsgspecError, zlib.error, ValueError) as error:
                unreadable = SpoolError(
                    f"spool: holds events that this version cannot read, and keeps them: {error}"
                )
                broken.add(row[2])
                with suppress(ValueError):
                    yield _REPORT, _lost(account, row)
                continue
            if row[2] in broken:
                batch = replace(batch, since=None)
            start = batch.since or batch.until
            if loss is not None and start > loss.first and start != reported:
                # Some batches may have found room between others that did not.
                yield _REPORT, _as_batch(account, replace(loss, last=min(start - _TICK, loss.last)))
                reported = start
            yield last, batch
        if loss is not None:
            yield _LOSS, _as_batch(account, loss)
        if unreadable is not None:
            raise unreadable

    def _next(self, account: str, last: int) -> tuple[Any, ...] | None:
        with self._spool.lend(to_write=False) as connection:
            row: tuple[Any, ...] | None = connection.execute(
                f"SELECT {_COLUMNS} FROM batches"
                " WHERE database = ? AND account = ? AND id > ? ORDER BY id LIMIT 1",
                (self._database, account, last),
            ).fetchone()
        return row

    def waits(self, number: int) -> bool:
        """Return whether a batch still waits, or stands for a loss: no process has removed it.

        Raises:
            SpoolError: the disk failed.
        """
        if number in {_LOSS, _REPORT}:
            return True
        if not self._spool.is_there():
            return False
        with self._spool.lend(to_write=False) as connection:
            found = connection.execute("SELECT 1 FROM batches WHERE id = ?", (number,)).fetchone()
        return found is not None

    def remove(self, account: str, number: int, batch: StreamBatch) -> bool:
        """Forget a batch that has been written; return whether all of it was.

        It may have been continued meanwhile: then it stays, to be written again.

        Raises:
            SpoolError: the disk failed.
        """
        if number == _LOSS:
            self._losses.pop(account, None)
            statement = (
                "UPDATE lost_batches SET first = '' WHERE database = ? AND account = ? AND last = ?"
            )
            parameters: tuple[Any, ...] = (self._database, account, batch.until.isoformat())
        else:
            statement = "DELETE FROM batches WHERE id = ? AND until = ? AND cause IS ?"
            parameters = (number, batch.until.isoformat(), batch.cause)
        if not self._spool.is_there():
            return True
        with self._spool.lend(to_write=True) as connection:
            return connection.execute(statement, parameters).rowcount > 0

    def accounts(self) -> set[str]:
        """Return the accounts of which batches wait, or a loss.

        Raises:
            SpoolError: the disk failed.
        """
        if not self._spool.is_there():
            return set(self._losses)
        with self._spool.lend(to_write=False) as connection:
            waiting = connection.execute(
                "SELECT account FROM batches WHERE database = :database"
                " UNION SELECT account FROM lost_batches"
                " WHERE database = :database AND first != ''",
                {"database": self._database},
            )
            return {account for (account,) in waiting} | set(self._losses)

    def _loss(self, connection: sqlite3.Connection, account: str) -> _Loss | None:
        row = connection.execute(
            "SELECT own_groups_only, first, last FROM lost_batches"
            " WHERE database = ? AND account = ? AND first != ''",
            (self._database, account),
        ).fetchone()
        known = self._losses.get(account)
        if row is None:
            return known
        first, last = (datetime.fromisoformat(each) for each in row[1:])
        if known is not None:
            first, last = min(first, known.first), max(last, known.last)
        return _Loss(bool(row[0]), first, last)


def _with(loss: _Loss | None, batch: StreamBatch) -> _Loss:
    """Return a loss that takes in a batch."""
    instants = [batch.until, *(event.received_at for event in batch.events)]
    if loss is None:
        return _Loss(batch.own_groups_only, min(instants), max(instants))
    return replace(loss, last=max(loss.last, *instants))


def _as_batch(account: str, loss: _Loss) -> StreamBatch:
    return StreamBatch(
        account=account,
        own_groups_only=loss.own_groups_only,
        since=None,
        until=loss.last,
        cause=NOT_KEPT,
    )


def _decoded(account: str, row: tuple[Any, ...]) -> StreamBatch:
    _number, own_groups_only, since, until, cause, claimed_until, packed = row
    events: tuple[OrderGroupEvent, ...] = ()
    if packed is not None:
        events = msgspec.json.decode(zlib.decompress(packed), type=tuple[OrderGroupEvent, ...])
    return StreamBatch(
        account=account,
        own_groups_only=bool(own_groups_only),
        since=_instant(since),
        until=datetime.fromisoformat(until),
        events=events,
        cause=msgspec.convert(cause, StreamGapCause | None),
        claimed_until=_instant(claimed_until),
    )


def _lost(account: str, row: tuple[Any, ...]) -> StreamBatch:
    until = datetime.fromisoformat(row[3])
    return _as_batch(account, _Loss(bool(row[1]), until, until))


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
