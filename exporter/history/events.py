"""The rows of `order_group_events`: never changed, and added once even if heard several times.

An event's key is its account, group, instant and identity; the identity holds everything else that
the exchange sent. If the exchange sent no time, the key holds the instant at which the event was
heard; equal events must then be looked for before one is added.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection, Table, Text, select, text, type_coerce

from exporter.history.occurrences import UNDATED_WINDOW
from exporter.history.schema import order_group_events, to_text
from exporter.model import OrderGroupEvent

COLUMNS = (
    "order_group_id",
    "occurred_at",
    "identity",
    "event_type",
    "event_at",
    "contracts_limit",
    "received_at",
    "extra",
)
"""Of an event's row after its account, in the order of `EventRow`."""

_POSTGRES_TYPES = (
    "text",
    "timestamptz",
    "text",
    "text",
    "timestamptz",
    "numeric",
    "timestamptz",
    "json",
)


_MOST_ROWS = 512  # that one statement of SQLite inserts, with eight parameters each


class EventRow(NamedTuple):
    """An event as both databases take it: instants are texts, whose order is that of time."""

    order_group_id: str
    occurred_at: str
    identity: str
    event_type: str
    event_at: str | None
    contracts_limit: str | None
    received_at: str
    extra: str | None


def rows_of(events: Iterable[OrderGroupEvent]) -> list[EventRow]:
    """Return the rows of events, sorted by their key, so that each page is written once."""
    rows = []
    texts: dict[datetime, str] = {}  # a burst has many events of a millisecond
    for event in events:
        received_at = to_text(event.received_at)
        event_at = None
        if event.event_at is not None:
            event_at = texts.get(event.event_at) or to_text(event.event_at)
            texts[event.event_at] = event_at
        rows.append(
            EventRow(
                event.order_group_id,
                event_at or received_at,
                identity(event),
                event.event_type,
                event_at,
                event.contracts_limit,
                received_at,
                event.extra,
            )
        )
    # Rows whose keys are equal differ at most in `received_at`: no null is compared.
    rows.sort()
    return rows


def identity(event: OrderGroupEvent) -> str:
    """Return the identity that tells an event from others of its group at its instant.

    It consists of the occurrence, the limit, a hash of the extra fields, and the type. The type
    comes last, because it may hold anything.
    """
    extra = "-" if event.extra is None else sha256(event.extra.encode()).hexdigest()[:16]
    return f"{event.occurrence} {event.contracts_limit or '-'} {extra} {event.event_type}"


def add(
    connection: Connection, table: Table, account: str, events: Sequence[OrderGroupEvent]
) -> int:
    """Add those events that the table does not hold yet; return how many.

    Args:
        connection: in a transaction; with undated events, in one that locks the account.
        table: `order_group_events`, or another with its columns.
        account: whose events.
        events: with their occurrences numbered.
    """
    dated = rows_of(event for event in events if event.event_at is not None)
    added = _insert(connection, table, account, dated)
    for event in events:
        if event.event_at is None and not _is_there(connection, table, account, event):
            added += _insert(connection, table, account, rows_of([event]))
    return added


def _insert(connection: Connection, table: Table, account: str, rows: list[EventRow]) -> int:
    if not rows:
        return 0
    # This bypasses SQLAlchemy, whose handling of each parameter takes longer than the databases do.
    if connection.dialect.name == "sqlite":
        added = done = 0
        while done < len(rows):
            # Few sizes, so that SQLite's driver keeps the statements.
            size = min(_MOST_ROWS, 1 << (len(rows) - done).bit_length() - 1)
            values = chain.from_iterable(rows[done : done + size])
            statement = _insert_on_sqlite(table.name, size)
            added += connection.exec_driver_sql(statement, (account, *values)).rowcount
            done += size
        return added
    return connection.execute(
        text(insert_on_postgres(table)), {"account": account, **arrays(rows)}
    ).rowcount


@cache
def _insert_on_sqlite(table: str, count: int) -> str:
    """Return an INSERT of `count` rows; its parameters are the account, then each row's columns.

    After each statement, a thread waits for the interpreter's lock, which the thread that reads the
    sockets keeps for milliseconds during a burst. So one statement inserts many rows.
    """
    places = f"(?1{', ?' * len(COLUMNS)})"
    columns = ", ".join(COLUMNS)
    values = ", ".join([places] * count)
    return f"INSERT INTO {table} (account, {columns}) VALUES {values} ON CONFLICT DO NOTHING"


def insert_on_postgres(table: Table = order_group_events, *, condition: str = "true") -> str:
    """Return the INSERT of rows that come as one array a column; see `arrays`.

    Args:
        table: with the columns.
        condition: whether to insert them.
    """
    heard = ", ".join(
        f"CAST(:{name}s AS {kind}[])" for name, kind in zip(COLUMNS, _POSTGRES_TYPES, strict=True)
    )
    columns = ", ".join(COLUMNS)
    return (
        f"INSERT INTO {table.name} (account, {columns})"
        f" SELECT CAST(:account AS text), {columns} FROM unnest({heard}) AS heard ({columns})"
        f" WHERE {condition} ON CONFLICT DO NOTHING"
    )


def arrays(rows: Sequence[EventRow]) -> dict[str, list[str | None]]:
    """Return the rows' columns as the parameters of `insert_on_postgres`."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(COLUMNS)
    return {f"{name}s": list(values) for name, values in zip(COLUMNS, columns, strict=True)}


def _is_there(connection: Connection, table: Table, account: str, event: OrderGroupEvent) -> bool:
    """Return whether an undated event is recorded already.

    It is if the table holds as many equal ones as its connection has heard, this one included.
    """
    near = connection.execute(
        select(type_coerce(table.c.identity, Text)).where(
            table.c.account == account,
            table.c.order_group_id == event.order_group_id,
            table.c.event_at.is_(None),
            table.c.occurred_at > event.received_at - UNDATED_WINDOW,
            table.c.occurred_at < event.received_at + UNDATED_WINDOW,
        )
    ).scalars()
    equal = identity(event).partition(" ")[2]
    return sum(each.partition(" ")[2] == equal for each in near) >= event.occurrence


def last_received(events: Sequence[OrderGroupEvent]) -> datetime | None:
    """Return when the latest of them was heard; None if there are none."""
    return max((event.received_at for event in events), default=None)
