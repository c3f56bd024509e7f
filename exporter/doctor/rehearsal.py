"""Run the statements of polls and events on the database, and roll all of it back."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Executable, delete, text

from exporter.database.database import Database
from exporter.database.prepared import execute_prepared, prepare
from exporter.database.sqlite_connection import sqlite_driver
from exporter.history.dictionary import OBJECTS
from exporter.history.schema import polls
from exporter.history.store import Store
from exporter.history.stream_store import StreamStore
from exporter.model import Observation, OrderGroup, OrderGroupEvent, Poll, StreamBatch

ACCOUNT = "a rehearsal of kalshi-exporter check"
"""The account of the rows that are never committed."""

_TRIAL_SIZE = 65536  # bytes


class _Undo(Exception):  # noqa: N818  # not an error
    """A request to roll a transaction back."""


class RehearsalDatabase(Database):
    """A database that rolls back everything that is written inside `rehearsal`.

    Args:
        url: the same as for `Database`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=1)
        self._outer: Connection | None = None

    @contextmanager
    def rehearsal(self) -> Iterator[Connection]:
        """Run all transactions inside the block as one, and roll it back at the end.

        Raises:
            DatabaseError: the database failed.
        """
        with suppress(_Undo), super().transaction() as connection:
            self._outer = connection
            try:
                yield connection
            finally:
                self._outer = None
            raise _Undo

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a transaction, or the part of the rehearsal that would be one."""
        if self._outer is not None:
            yield self._outer
            return
        with super().transaction() as connection:
            yield connection

    def execute_one(
        self, statement: Executable, parameters: Mapping[str, Any], *, durable: bool = True
    ) -> tuple[Any, ...] | None:
        """Run one statement, as part of the rehearsal if there is one."""
        if self._outer is None or self.is_sqlite:
            return super().execute_one(statement, parameters, durable=durable)
        row = self._outer.execute(statement, parameters).first()
        return None if row is None else tuple(row)

    def execute_together(
        self,
        statements: tuple[Executable, ...],
        parameters: Mapping[str, Any],
        *,
        durable: bool = True,
    ) -> tuple[Any, ...] | None:
        """Run statements, as part of the rehearsal if there is one."""
        if self._outer is None:
            return super().execute_together(statements, parameters, durable=durable)
        prepared = prepare(statements, self._outer.dialect)
        return execute_prepared(sqlite_driver(self._outer), prepared, parameters)


def rehearse(database: RehearsalDatabase, connection: Connection) -> None:
    """Write polls of every kind, prune them, and read every table and view.

    Args:
        database: the database, inside its `rehearsal`.
        connection: the connection that `rehearsal` yields.

    Raises:
        DatabaseError: a statement of a poll fails.
    """
    store = Store(database, owner="kalshi-exporter check")
    at = datetime.now(UTC)
    groups = {name: _group(name, "1.00") for name in ("a", "b", "c")}
    changed = {"a": groups["a"], "b": _group("b", "2.00")}
    for number, (outcome, seen) in enumerate(
        (("ok", groups), ("ok", groups), ("ok", changed), ("timeout", None), ("ok", groups))
    ):
        now = at + timedelta(minutes=number)
        head = store.claim(ACCOUNT, now=now, lease=1.0)
        observation = None
        if seen is not None:
            observation = Observation(observed_at=now, digest=f"{len(seen)} groups", groups=seen)
        poll = Poll(
            account=ACCOUNT,
            started_at=now,
            finished_at=now,
            outcome="ok" if outcome == "ok" else "timeout",
            attempts=1,
            observation=observation,
        )
        store.write(poll, head=head, interval=60.0, confirm_removal=1)
    store.note_loss(ACCOUNT, polls=1, last_started_at=at + timedelta(minutes=9))
    streams = StreamStore(database)
    event = OrderGroupEvent(
        order_group_id="a", event_type="triggered", event_at=at, received_at=at, extra="{}"
    )
    batch = StreamBatch(
        account=ACCOUNT,
        own_groups_only=False,
        since=at,
        until=at + timedelta(minutes=1),
        events=(event,),
    )
    streams.write(batch)
    streams.write(replace(batch, until=batch.until + timedelta(minutes=1)))
    streams.write(replace(batch, until=batch.until + timedelta(minutes=2), cause="disconnected"))
    connection.execute(delete(polls).where(polls.c.account == ACCOUNT))
    for name in OBJECTS:
        connection.execute(text(f"SELECT * FROM {name} LIMIT 1")).fetchall()


def _group(name: str, limit: str) -> OrderGroup:
    return OrderGroup(id=name, is_auto_cancel_enabled=False, contracts_limit=limit)


def try_directory(directory: Path) -> None:
    """Write a temporary file without a name, which vanishes at once.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_TRIAL_SIZE))
        file.flush()
