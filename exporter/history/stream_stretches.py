"""The stretches of stream coverage as rows: read and locked in their order."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, select

from exporter.history.schema import accounts, stream_coverage

TICK = timedelta(microseconds=1)
"""The least time between two stretches."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """An unbroken stretch, and the gap before it; the columns of `stream_coverage`."""

    started_at: datetime
    ended_at: datetime
    events: int
    last_event_at: datetime | None
    gap_started_at: datetime | None
    gap_cause: str | None
    is_latest: bool


_table = stream_coverage
_COLUMNS = [_table.c[name] for name in Stretch.__slots__]


def reported_cause(connection: Connection, account: str, stretch: Stretch) -> str | None:
    """Return why the stretch ended; None if nobody has said so since its end."""
    return connection.execute(
        select(accounts.c.stream_end_cause).where(
            accounts.c.account == account, accounts.c.stream_ended_at >= stretch.ended_at
        )
    ).scalar()


def read_stretches(
    connection: Connection,
    account: str,
    *conditions: ColumnElement[bool],
    newest: bool = False,
    oldest: bool = False,
) -> list[Stretch]:
    """Read stretches in their order, or only the newest or oldest, and lock them on Postgres."""
    rows = select(*_COLUMNS).where(_table.c.account == account, *conditions).with_for_update()
    if newest or oldest:
        rows = rows.limit(1)
    order = _table.c.started_at.desc() if newest else _table.c.started_at
    return [Stretch(*row) for row in connection.execute(rows.order_by(order))]


def beginning_at(started_at: datetime) -> ColumnElement[bool]:
    """Return the condition that a stretch begins at an instant."""
    return _table.c.started_at == started_at
