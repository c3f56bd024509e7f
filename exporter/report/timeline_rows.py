"""What the timelines of order groups are made of, as the database has it."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    case,
    func,
    select,
)
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import order_group_events, order_group_snapshots
from exporter.reading import views
from exporter.report.lookup import events_within, overlapping, wanted
from exporter.report.span import Span
from exporter.report.tally import Ranked

ABSENT = -1

_EXTRA_LENGTH = 120
_EVENTS_OF_GROUP = 300

State: TypeAlias = tuple[Any, ...]
"""The flag as 0 or 1, the limit, the exchange index, the unknown fields."""
Event: TypeAlias = tuple[datetime, State | int]
"""An instant, and the state from then on; `ABSENT`; or `ABSENT` minus a number of states."""


def states_of(
    connection: Connection, account: str, span: Span, ids: Sequence[str]
) -> dict[str, list[Event]]:
    """Return when the states of some groups became which, in order of time."""
    states = order_group_snapshots
    rows = connection.execute(
        select(*_columns(connection))
        .where(overlapping(account, span), states.c.order_group_id.in_(ids))
        .order_by(states.c.order_group_id, states.c.valid_from),
        execution_options={"yield_per": 5_000},
    )
    return _events(rows, span)


def brief_states(
    connection: Connection, account: str, span: Span, groups: Sequence[Ranked]
) -> dict[str, list[Event]]:
    """Return the last state of some groups, and the number of those before it."""
    states = order_group_snapshots
    known = {group.id: group for group in groups}
    lasts = {group.id: group.last for group in groups if group.last is not None}
    table, id_, last = wanted(connection, lasts)
    same = and_(
        states.c.account == account, states.c.order_group_id == id_, states.c.valid_from == last
    )
    rows = connection.execute(select(*_columns(connection)).select_from(table.join(states, same)))
    found = _events(rows, span)
    for group, events in found.items():
        first, count = known[group].first, known[group].states
        if first is not None and count > 1:
            events.insert(0, (first, ABSENT - (count - 1)))
    return found


def events_of(
    connection: Connection, account: str, span: Span, ids: Sequence[str]
) -> dict[str, deque[tuple[datetime, State]]]:
    """Return the latest events of some groups: the exchange's time, the type and the limit."""
    events = order_group_events
    rows = connection.execute(
        select(
            events.c.order_group_id,
            events.c.occurred_at,
            events.c.event_type,
            events.c.contracts_limit,
        )
        .where(*events_within(account, span), events.c.order_group_id.in_(ids))
        .order_by(events.c.occurred_at)
    )
    found: dict[str, deque[tuple[datetime, State]]] = defaultdict(
        lambda: deque(maxlen=_EVENTS_OF_GROUP)
    )
    for group, at, kind, limit in rows:
        found[group].append((at, (kind, None if limit is None else format(limit, "f"))))
    return found


def _columns(connection: Connection) -> tuple[ColumnElement[Any], ...]:
    states = order_group_snapshots
    on_sqlite = connection.dialect.name == "sqlite"
    stored = views.as_text(states.c.extra, on_sqlite=on_sqlite)
    return (
        states.c.order_group_id,
        states.c.valid_from,
        case((states.c.end_reason == "removed", states.c.valid_to)),
        states.c.is_auto_cancel_enabled,
        views.as_text(states.c.contracts_limit, on_sqlite=on_sqlite),
        states.c.exchange_index,
        func.substr(coerce(stored, Text), 1, _EXTRA_LENGTH),
    )


def _events(rows: Iterable[Sequence[Any]], span: Span) -> dict[str, list[Event]]:
    """Return by group when its states began, and when it was gone.

    A page tells up to 100,000 states one by one, and few of them differ: each is converted once.
    """
    states: dict[tuple[Any, ...], State] = {}
    found: dict[str, list[Event]] = defaultdict(list)
    for group, began_at, removed_at, *stored in rows:
        key = tuple(stored)
        state = states.get(key)
        if state is None:
            enabled, limit, *rest = stored
            limit = None if limit is None else format(Decimal(limit), "f")
            state = states[key] = (int(enabled), limit, *rest)
        events = found[group]
        events.append((began_at, state))
        if removed_at is not None and removed_at <= span.until:
            events.append((removed_at, ABSENT))
    return found
