"""What the timelines of order groups are made of, as the database has it."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Text, and_, case, func, or_, select, union
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import Instant, order_group_events, order_group_snapshots
from exporter.reading import views
from exporter.report.span import Span
from exporter.report.triggers import Triggers, counted

ABSENT = -1

_EXTRA_LENGTH = 120
_EVENTS_OF_GROUP = 300

State: TypeAlias = tuple[Any, ...]
"""The flag as 0 or 1, the limit, the exchange index, the unknown fields."""
Event: TypeAlias = tuple[datetime, State | int]
"""An instant, and the state from then on; `ABSENT`; or `ABSENT` minus a number of states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An order group, how often it appeared, changed or disappeared, and how often it triggered."""

    id: str
    changes: int
    triggers: int


def count_groups(connection: Connection, account: str, span: Span) -> int:
    """Count the order groups of an account that polls saw, or events named, in a span."""
    seen = select(order_group_snapshots.c.order_group_id).where(_overlapping(account, span))
    named = select(order_group_events.c.order_group_id).where(*_events_within(account, span))
    return connection.scalar(select(func.count()).select_from(union(seen, named).subquery())) or 0


def ranked_groups(
    connection: Connection, account: str, span: Span, triggers: Triggers, *, limit: int
) -> list[Ranked]:
    """Return order groups with what happened to them, those to which most happened first.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        triggers: of the account.
        limit: how many at most.
    """
    states = order_group_snapshots
    begun = and_(states.c.valid_from >= span.since, states.c.not_before.is_not(None))
    gone = and_(states.c.end_reason == "removed", states.c.valid_to <= span.until)
    changed = func.sum(case((begun, 1), else_=0) + case((gone, 1), else_=0))
    changes = _most(
        connection, states.c.order_group_id, changed, (_overlapping(account, span),), limit
    )
    triggered = {group: counted(found, span) for group, found in triggers.items()}
    # Some live between two polls: only events tell of them.
    named = _most(
        connection,
        order_group_events.c.order_group_id,
        func.count(),
        _events_within(account, span),
        limit,
    )
    found = [
        Ranked(id=group, changes=changes.get(group, 0), triggers=triggered.get(group, 0))
        for group in changes | triggered | named
    ]
    found.sort(key=lambda group: -group.changes - group.triggers)  # stable: else as they came
    return found[:limit]


def states_of(
    connection: Connection, account: str, span: Span, ids: Sequence[str]
) -> dict[str, list[Event]]:
    """Return when the states of some groups became which, in order of time."""
    states = order_group_snapshots
    rows = connection.execute(
        select(*_columns(connection))
        .where(_overlapping(account, span), states.c.order_group_id.in_(ids))
        .order_by(states.c.order_group_id, states.c.valid_from),
        execution_options={"yield_per": 5_000},
    )
    found: dict[str, list[Event]] = defaultdict(list)
    for group, *row in rows:
        found[group] += _events(row, span)
    return found


def brief_states(
    connection: Connection, account: str, span: Span, ids: Sequence[str]
) -> dict[str, list[Event]]:
    """Return the last state of some groups, and the number of those before it."""
    states = order_group_snapshots
    ends = (
        select(
            states.c.order_group_id.label("id"),
            func.min(states.c.valid_from, type_=Instant).label("first"),
            func.max(states.c.valid_from, type_=Instant).label("last"),
            func.count().label("count"),
        )
        .where(_overlapping(account, span), states.c.order_group_id.in_(ids))
        .group_by(states.c.order_group_id)
        .subquery()
    )
    rows = connection.execute(
        select(*_columns(connection), ends.c.first, ends.c.count)
        .join_from(ends, states, states.c.order_group_id == ends.c.id)
        .where(states.c.account == account, states.c.valid_from == ends.c.last)
    )
    found: dict[str, list[Event]] = {}
    for group, *row, first, count in rows:
        before: list[Event] = [(first, ABSENT - (count - 1))] if count > 1 else []
        found[group] = before + _events(row, span)
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
        .where(*_events_within(account, span), events.c.order_group_id.in_(ids))
        .order_by(events.c.occurred_at)
    )
    found: dict[str, deque[tuple[datetime, State]]] = defaultdict(
        lambda: deque(maxlen=_EVENTS_OF_GROUP)
    )
    for group, at, kind, limit in rows:
        found[group].append((at, (kind, None if limit is None else format(limit, "f"))))
    return found


def _events_within(account: str, span: Span) -> tuple[ColumnElement[bool], ...]:
    events = order_group_events
    return (
        events.c.account == account,
        events.c.occurred_at >= span.since,
        events.c.occurred_at <= span.until,
    )


def _overlapping(account: str, span: Span) -> ColumnElement[bool]:
    states = order_group_snapshots
    return and_(
        states.c.account == account,
        states.c.valid_from <= span.until,
        or_(states.c.valid_to.is_(None), states.c.valid_to > span.since),
    )


def _most(
    connection: Connection,
    group: ColumnElement[str],
    counted: ColumnElement[Any],
    conditions: tuple[ColumnElement[bool], ...],
    limit: int,
) -> dict[str, int]:
    """Count something for each group; return those with the most, first."""
    on_sqlite = connection.dialect.name == "sqlite"
    rows = connection.execute(
        select(group, counted)
        .where(*conditions)
        .group_by(group)
        .order_by(counted.desc(), *views.in_order((group,), on_sqlite=on_sqlite))
        .limit(limit)
    )
    return {each: int(count) for each, count in rows}


def _columns(connection: Connection) -> tuple[ColumnElement[Any], ...]:
    states = order_group_snapshots
    stored = views.as_text(states.c.extra, on_sqlite=connection.dialect.name == "sqlite")
    return (
        states.c.order_group_id,
        states.c.valid_from,
        states.c.valid_to,
        states.c.end_reason,
        states.c.is_auto_cancel_enabled,
        states.c.contracts_limit,
        states.c.exchange_index,
        func.substr(coerce(stored, Text), 1, _EXTRA_LENGTH),
    )


def _events(row: Sequence[Any], span: Span) -> list[Event]:
    """Return when a state began, and when the group was gone if it then was."""
    valid_from, valid_to, end_reason, enabled, limit, *rest = row
    state = (int(enabled), None if limit is None else format(limit, "f"), *rest)
    found: list[Event] = [(valid_from, state)]
    if end_reason == "removed" and valid_to <= span.until:
        found.append((valid_to, ABSENT))
    return found
