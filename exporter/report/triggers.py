"""The triggers of an account that reach into a span: rows of the view `order_group_triggers`.

The view weighs every change of the flag against the events of its group, which takes most of a
report's time where nobody listens. Of a group without events it says exactly what the flag says:
such groups are read from the snapshots, with the same result. A test compares the two.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, or_, select

from exporter.history.schema import order_group_events, order_group_snapshots
from exporter.reading import views
from exporter.report.span import Span

_AT_ONCE = 500  # groups


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of an order group.

    Attributes:
        at: when it happened.
        ended_at: when it was reset or deleted; None while nothing ended it.
        told: whether the exchange told it; otherwise only the flag shows it.
    """

    at: datetime
    ended_at: datetime | None
    told: bool


Triggers = Mapping[str, Sequence[Trigger]]
"""By the id of the order group, in order of time."""


def triggers_of(connection: Connection, account: str, span: Span) -> Triggers:
    """Return the triggers of an account that reach into a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
    """
    found: dict[str, list[Trigger]] = defaultdict(list)
    named = connection.scalars(_groups_with_events(account)).all()
    for start in range(0, len(named), _AT_ONCE):
        rows = connection.execute(_of_groups(account, named[start : start + _AT_ONCE]))
        for group, at, ended_at, evidence in rows:
            found[group].append(Trigger(at, ended_at, evidence == "event"))
    options = {"yield_per": 5_000}
    flagged = connection.execute(_of_groups_without_events(account), execution_options=options)
    for group, at, ended_at in flagged:
        found[group].append(Trigger(at, ended_at, told=False))
    reaching: dict[str, list[Trigger]] = {}
    for group, triggers in found.items():
        inside = [
            each
            for each in triggers
            if each.at <= span.until and (each.ended_at is None or each.ended_at >= span.since)
        ]
        if inside:
            reaching[group] = sorted(inside, key=lambda trigger: trigger.at)
    return reaching


def counted(triggers: Sequence[Trigger], span: Span) -> int:
    """Count the triggers that happened inside a span."""
    return sum(span.since <= each.at <= span.until for each in triggers)


def by_part(triggers: Triggers, span: Span) -> list[tuple[int, int, int]]:
    """Count the triggers in each part of a span.

    Args:
        triggers: of an account.
        span: what the report is about.

    Returns:
        For the parts with any: number of the part; triggers that the exchange told, and those that
        only the flag shows.
    """
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for group in triggers.values():
        for each in group:
            if span.since <= each.at <= span.until:
                counts[span.part(each.at)][0 if each.told else 1] += 1
    return [(part, *counts[part]) for part in sorted(counts)]  # type: ignore[misc]  # two of them


def _groups_with_events(account: str) -> Select[Any]:
    events = order_group_events
    return select(events.c.order_group_id).where(events.c.account == account).distinct()


def _of_groups(account: str, ids: Sequence[str]) -> Select[Any]:
    """Return the view's rows of some groups: SQLite looks up those that it is given as a list."""
    view = views.order_group_triggers
    columns = (view.c.order_group_id, view.c.triggered_at, view.c.ended_at, view.c.evidence)
    return select(*columns).where(view.c.account == account, view.c.order_group_id.in_(ids))


def _of_groups_without_events(account: str) -> Select[Any]:
    events = order_group_events
    before, after, last, other = (order_group_snapshots.alias(name) for name in "psxy")

    def follows(state: Any, earlier: Any) -> Any:
        return and_(
            state.c.account == earlier.c.account,
            state.c.order_group_id == earlier.c.order_group_id,
            state.c.valid_from == earlier.c.valid_to,
        )

    is_reset = exists().where(follows(other, last), ~other.c.is_auto_cancel_enabled)
    ended_at = (
        select(last.c.valid_to)
        .where(
            last.c.account == after.c.account,
            last.c.order_group_id == after.c.order_group_id,
            last.c.valid_from >= after.c.valid_from,
            or_(last.c.end_reason == "removed", is_reset),
        )
        .order_by(last.c.valid_from)
        .limit(1)
        .scalar_subquery()
    )
    named = exists().where(
        events.c.account == before.c.account,
        events.c.order_group_id == before.c.order_group_id,
    )
    return (
        select(before.c.order_group_id, before.c.valid_to, ended_at)
        .join_from(before, after, follows(after, before))
        .where(
            before.c.account == account,
            before.c.end_reason == "changed",
            ~before.c.is_auto_cancel_enabled,
            after.c.is_auto_cancel_enabled,
            ~named,
        )
    )
