"""Look up rows of many order groups, each by an instant, in one statement."""

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
    column,
    func,
    literal,
)
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import Instant, to_text


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
