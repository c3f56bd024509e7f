"""Conditions that several statements about order groups share, and how to look many up at once."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    ColumnElement,
    Connection,
    FromClause,
    Text,
    and_,
    column,
    func,
    literal,
    or_,
)
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import (
    Instant,
    order_group_events,
    order_group_snapshots,
    to_text,
)
from exporter.report.span import Span


class Wanted(NamedTuple):
    """A table of order groups, each with one instant, to join others to."""

    table: FromClause
    group: ColumnElement[str]
    instant: ColumnElement[datetime]


def wanted(connection: Connection, instants: Mapping[str, datetime]) -> Wanted:
    """Return a table of some order groups.

    SQLite would read a whole account for a condition such as (group, instant) IN (…).

    Args:
        connection: to the database that will read the table.
        instants: by the id of the order group.
    """
    if connection.dialect.name == "sqlite":
        pairs = [[group, to_text(instant)] for group, instant in instants.items()]
        table = func.json_each(json.dumps(pairs)).table_valued("value", name="wanted")
        group, instant = (func.json_extract(table.c.value, f"$[{place}]") for place in (0, 1))
        return Wanted(table, coerce(group, Text), coerce(instant, Instant))
    columns = (column("order_group_id", Text), column("instant", Instant))
    arrays = (
        literal(list(instants), ARRAY(Text)),
        literal(list(instants.values()), ARRAY(TIMESTAMP(timezone=True))),
    )
    listed = func.unnest(*arrays).table_valued(*columns, name="wanted").render_derived()
    return Wanted(listed, listed.c.order_group_id, listed.c.instant)


def events_within(account: str, span: Span) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the events of an account in a span."""
    events = order_group_events
    return (
        events.c.account == account,
        events.c.occurred_at >= span.since,
        events.c.occurred_at <= span.until,
    )


def overlapping(account: str, span: Span) -> ColumnElement[bool]:
    """Return the condition for the states of an account that reach into a span."""
    states = order_group_snapshots
    return and_(
        states.c.account == account,
        states.c.valid_from <= span.until,
        or_(states.c.valid_to.is_(None), states.c.valid_to > span.since),
    )
