"""Which order groups the page shows first: those to which most happened."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, select

from exporter.history.schema import Instant, order_group_events, order_group_snapshots
from exporter.history.types import among
from exporter.reading import views
from exporter.report.lookup import events_within, overlapping
from exporter.report.span import Span
from exporter.report.tally import Ranked, Tally
from exporter.report.triggers import Triggers


def ranked_groups(
    connection: Connection,
    account: str,
    span: Span,
    tally: Tally,
    triggers: Triggers,
    *,
    limit: int,
) -> tuple[list[Ranked], int]:
    """Return order groups with what happened to them, those to which most happened first.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        tally: of the account.
        triggers: of the account.
        limit: how many at most.

    Returns:
        The groups, and how many there are in all: that polls saw or events named in the span.
    """
    busiest = tally.busiest
    if len(busiest) < min(limit, tally.groups):
        busiest, _ = most_changed(connection, account, span, limit=limit)
    seen = {group.id: group for group in busiest[:limit]}
    # Some groups live between two polls: only events name them.
    events = order_group_events
    named = connection.execute(
        select(events.c.order_group_id)
        .where(*events_within(account, span))
        .group_by(events.c.order_group_id)
        .order_by(func.count().desc(), *_by_id(connection, events.c.order_group_id))
        .limit(limit)
    )
    others = [group for group in [*triggers.counts, *named.scalars()] if group not in seen]
    if others:
        more, _ = most_changed(connection, account, span, limit=len(others), ids=others)
        known = {group.id: group for group in more}
        seen |= {group: known.get(group, Ranked(id=group)) for group in others}
    found = sorted(  # stable
        seen.values(), key=lambda group: -group.changes - triggers.counts.get(group.id, 0)
    )
    return found[:limit], tally.groups + _named_alone(connection, account, span)


def most_changed(
    connection: Connection,
    account: str,
    span: Span,
    *,
    limit: int,
    ids: Sequence[str] | None = None,
) -> tuple[list[Ranked], int]:
    """Return the order groups that changed most.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        limit: how many at most.
        ids: of the groups to choose from; all of the account if None.

    Returns:
        The groups, and how many of them have states in the span.
    """
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
        .where(overlapping(account, span), *some)
        .group_by(states.c.order_group_id)
        .order_by(changed.desc(), *_by_id(connection, states.c.order_group_id))
        .limit(max(limit, 1))  # for the count
    ).all()
    found = [
        Ranked(id=group, changes=int(changes), states=count, first=first, last=last)
        for group, changes, count, first, last, _ in rows[:limit]
    ]
    return found, rows[0][-1] if rows else 0


def _named_alone(connection: Connection, account: str, span: Span) -> int:
    """Count the order groups that events named in a span, and that no poll saw in it."""
    events, states = order_group_events, order_group_snapshots
    seen = exists().where(
        overlapping(account, span), states.c.order_group_id == events.c.order_group_id
    )
    named = select(events.c.order_group_id).where(*events_within(account, span), ~seen).distinct()
    return connection.scalar(select(func.count()).select_from(named.subquery())) or 0


def _by_id(connection: Connection, group: ColumnElement[str]) -> list[ColumnElement[Any]]:
    return views.in_order((group,), on_sqlite=connection.dialect.name == "sqlite")
