"""What the timelines of order groups are made of, as the database has it."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    case,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import Instant, order_group_events, order_group_snapshots
from exporter.history.types import among
from exporter.reading import views
from exporter.report.lookup import wanted
from exporter.report.span import Span
from exporter.report.triggers import Triggers

ABSENT = -1

_EXTRA_LENGTH = 120
_EVENTS_OF_GROUP = 300

State: TypeAlias = tuple[Any, ...]
"""The flag as 0 or 1, the limit, the exchange index, the unknown fields."""
Event: TypeAlias = tuple[datetime, State | int]
"""An instant, and the state from then on; `ABSENT`; or `ABSENT` minus a number of states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An order group, and what happened to it in a span.

    Attributes:
        id: its id.
        changes: how often it appeared, changed or disappeared.
        triggers: how often it triggered.
        states: how many states polls saw; the first and the last of them began at `first` and
            `last`, which are None if there are none.
    """

    id: str
    changes: int = 0
    triggers: int = 0
    states: int = 0
    first: datetime | None = None
    last: datetime | None = None


def ranked_groups(
    connection: Connection, account: str, span: Span, triggers: Triggers, *, limit: int
) -> tuple[list[Ranked], int]:
    """Return order groups with what happened to them, those to which most happened first.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        triggers: of the account.
        limit: how many at most.

    Returns:
        The groups, and how many there are in all: that polls saw or events named in the span.
    """
    seen, count = _changed(connection, account, span, triggers, limit=limit)
    # Some groups live between two polls: only events name them.
    events = order_group_events
    named = connection.execute(
        select(events.c.order_group_id)
        .where(*_events_within(account, span))
        .group_by(events.c.order_group_id)
        .order_by(func.count().desc(), *_by_id(connection, events.c.order_group_id))
        .limit(limit)
    )
    others = [group for group in [*triggers.counts, *named.scalars()] if group not in seen]
    more, _ = _changed(connection, account, span, triggers, limit=len(others), ids=others)
    for group in others:
        triggered = triggers.counts.get(group, 0)
        seen[group] = more.get(group, Ranked(id=group, triggers=triggered))
    found = sorted(seen.values(), key=lambda group: -group.changes - group.triggers)  # stable
    return found[:limit], count + _named_alone(connection, account, span)


def _changed(
    connection: Connection,
    account: str,
    span: Span,
    triggers: Triggers,
    *,
    limit: int,
    ids: Sequence[str] | None = None,
) -> tuple[dict[str, Ranked], int]:
    """Return the groups that changed most, of all or of some; and how many there are of these."""
    states = order_group_snapshots
    begun = and_(states.c.valid_from >= span.since, states.c.not_before.is_not(None))
    gone = and_(states.c.end_reason == "removed", states.c.valid_to <= span.until)
    changed = func.sum(case((begun, 1), else_=0) + case((gone, 1), else_=0))
    some = () if ids is None else (among(connection, states.c.order_group_id, ids),)
    rows = connection.execute(
        select(
            states.c.order_group_id,
            changed,
            func.count(),
            func.min(states.c.valid_from, type_=Instant),
            func.max(states.c.valid_from, type_=Instant),
            func.count().over(),
        )
        .where(_overlapping(account, span), *some)
        .group_by(states.c.order_group_id)
        .order_by(changed.desc(), *_by_id(connection, states.c.order_group_id))
        .limit(max(limit, 1))  # for the count
    ).all()
    found = {
        group: Ranked(
            id=group,
            changes=int(changes),
            triggers=triggers.counts.get(group, 0),
            states=count,
            first=first,
            last=last,
        )
        for group, changes, count, first, last, _ in rows[:limit]
    }
    return found, rows[0][-1] if rows else 0


def _named_alone(connection: Connection, account: str, span: Span) -> int:
    """Count the order groups that events named in a span, and that no poll saw in it."""
    events, states = order_group_events, order_group_snapshots
    seen = exists().where(
        _overlapping(account, span), states.c.order_group_id == events.c.order_group_id
    )
    named = select(events.c.order_group_id).where(*_events_within(account, span), ~seen).distinct()
    return connection.scalar(select(func.count()).select_from(named.subquery())) or 0


def _by_id(connection: Connection, group: ColumnElement[str]) -> list[ColumnElement[Any]]:
    return views.in_order((group,), on_sqlite=connection.dialect.name == "sqlite")


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
    found: dict[str, list[Event]] = {}
    for group, *row in rows:
        first, count = known[group].first, known[group].states
        before: list[Event] = []
        if first is not None and count > 1:
            before = [(first, ABSENT - (count - 1))]
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
