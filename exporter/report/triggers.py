"""The triggers of an account that reach into a span: rows of the view `order_group_triggers`.

The view weighs every change of the flag against the events of its group, which takes most of a
report's time where nobody listens. Of a group without events it says exactly what the flag says:
such groups are read from the snapshots, with the same result. A test compares the two.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    case,
    exists,
    func,
    null,
    or_,
    select,
)

from exporter.history.schema import Instant, order_group_events, order_group_snapshots
from exporter.reading import views
from exporter.report.lookup import wanted
from exporter.report.span import Span, slot_of

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """The triggers of an account that reach into a span.

    Attributes:
        counts: how many happened inside the span, by group.
        by_part: for the parts with any: number of the part; triggers that the exchange told, and
            those that only the flag shows.
        weighed: those of groups with events, by group, in order of time.
        last: the latest trigger of each other group that triggered before the span's end.
    """

    counts: Mapping[str, int]
    by_part: Sequence[tuple[int, int, int]]
    weighed: Mapping[str, Sequence[Trigger]]
    last: Mapping[str, datetime]


def triggers_of(connection: Connection, account: str, span: Span) -> Triggers:
    """Count the triggers of an account in a span; read those of groups with events.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
    """
    weighed = _weighed(connection, account, span)
    counts = {
        group: sum(span.since <= each.at <= span.until for each in found)
        for group, found in weighed.items()
    }
    parts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for found in weighed.values():
        for each in found:
            if span.since <= each.at <= span.until:
                parts[span.part(each.at)][0 if each.told else 1] += 1
    last: dict[str, datetime] = {}
    slots: Counter[str | datetime] = Counter()
    on_sqlite = connection.dialect.name == "sqlite"
    for group, at, count, texts in connection.execute(
        _counted(connection, account, span), execution_options={"yield_per": 1_000}
    ):
        last[group] = at
        if count:
            counts[group] = count
            slots.update(texts.split(",") if on_sqlite else ())
    if not on_sqlite:
        slots.update(dict(iter(connection.execute(_by_slot(connection, account, span)))))
    for slot, count in slots.items():
        parts[span.part_of_slot(slot)][1] += count
    by_part = [(part, told, shown) for part, (told, shown) in sorted(parts.items())]
    return Triggers(counts=counts, by_part=by_part, weighed=weighed, last=last)


def timelines_of(
    connection: Connection,
    account: str,
    span: Span,
    triggers: Triggers,
    ids: Sequence[str],
    *,
    last_only: bool,
) -> dict[str, Sequence[Trigger]]:
    """Return the triggers of some groups that reach into a span, in order of time.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: their account.
        span: what the report is about.
        triggers: of the account.
        ids: of the groups.
        last_only: whether to return only the last of each group.
    """
    found: dict[str, list[Trigger]] = defaultdict(list)
    before, after = _before_and_after()
    lasts = {group: triggers.last[group] for group in ids if group in triggers.last}
    if last_only:
        table, group, at = wanted(connection, lasts)
        same = and_(
            after.c.account == account, after.c.order_group_id == group, after.c.valid_from == at
        )
        rows = select().select_from(table.join(after, same))
    else:
        rows = (
            _flagged(account, before, after)
            .where(before.c.order_group_id.in_(list(lasts)))
            .order_by(before.c.valid_to)
        )
    columns = (after.c.order_group_id, after.c.valid_from, _end_of(after))
    for group, at, ended_at in connection.execute(rows.add_columns(*columns)) if lasts else ():
        if at <= span.until and (ended_at is None or ended_at >= span.since):
            found[group].append(Trigger(at, ended_at, told=False))
    return found | {
        group: triggers.weighed[group][-1 if last_only else 0 :]
        for group in ids
        if group in triggers.weighed
    }


def _weighed(connection: Connection, account: str, span: Span) -> dict[str, list[Trigger]]:
    """Return the triggers of groups with events that reach into a span, in order of time."""
    named = connection.scalars(_groups_with_events(account)).all()
    reaching: dict[str, list[Trigger]] = {}
    for start in range(0, len(named), _AT_ONCE):
        rows = connection.execute(_of_groups(account, named[start : start + _AT_ONCE]))
        for group, at, ended_at, evidence in rows:
            if at <= span.until and (ended_at is None or ended_at >= span.since):
                trigger = Trigger(at, ended_at, evidence == "event")
                reaching.setdefault(group, []).append(trigger)
    for found in reaching.values():
        found.sort(key=lambda trigger: trigger.at)
    return reaching


def _groups_with_events(account: str) -> Select[Any]:
    events = order_group_events
    return select(events.c.order_group_id).where(events.c.account == account).distinct()


def _of_groups(account: str, ids: Sequence[str]) -> Select[Any]:
    """Return the view's rows of some groups: SQLite looks up those that it is given as a list."""
    view = views.order_group_triggers
    columns = (view.c.order_group_id, view.c.triggered_at, view.c.ended_at, view.c.evidence)
    return select(*columns).where(view.c.account == account, view.c.order_group_id.in_(ids))


def _counted(connection: Connection, account: str, span: Span) -> Select[Any]:
    """Return the flag's triggers of groups without events, counted by group.

    The columns are the group, its last trigger until the span's end, how many it has inside the
    span, and on SQLite their slots as one text: see `exporter.report.groups`.
    """
    before, after = _before_and_after()
    at = before.c.valid_to
    inside = at >= span.since
    slots: ColumnElement[Any] = null()
    if connection.dialect.name == "sqlite":
        slots = func.group_concat(case((inside, slot_of(connection, at, span))))
    columns = (before.c.order_group_id, func.max(at, type_=Instant), func.count(case((inside, 1))))
    return (
        _flagged(account, before, after)
        .add_columns(*columns, slots)
        .where(at <= span.until)
        .group_by(before.c.order_group_id)
    )


def _by_slot(connection: Connection, account: str, span: Span) -> Select[Any]:
    before, after = _before_and_after()
    at = before.c.valid_to
    slot = slot_of(connection, at, span).label("slot")
    return (
        _flagged(account, before, after)
        .add_columns(slot, func.count())
        .where(at >= span.since, at <= span.until)
        .group_by(slot)
    )


def _before_and_after() -> tuple[FromClause, FromClause]:
    return order_group_snapshots.alias("p"), order_group_snapshots.alias("s")


def _flagged(account: str, before: FromClause, after: FromClause) -> Select[Any]:
    """Return the changes of the flag from false to true in groups without events, no columns."""
    events = order_group_events
    named = exists().where(
        events.c.account == before.c.account,
        events.c.order_group_id == before.c.order_group_id,
    )
    return (
        select()
        .select_from(before.join(after, _follows(after, before)))
        .where(
            before.c.account == account,
            before.c.end_reason == "changed",
            ~before.c.is_auto_cancel_enabled,
            after.c.is_auto_cancel_enabled,
            ~named,
        )
    )


def _follows(state: FromClause, earlier: FromClause) -> ColumnElement[bool]:
    return and_(
        state.c.account == earlier.c.account,
        state.c.order_group_id == earlier.c.order_group_id,
        state.c.valid_from == earlier.c.valid_to,
    )


def _end_of(after: FromClause) -> ColumnElement[datetime | None]:
    """Return SQL for the end of the trigger that a state began: its reset, or its removal."""
    last, other = (order_group_snapshots.alias(name) for name in "xy")
    is_reset = exists().where(_follows(other, last), ~other.c.is_auto_cancel_enabled)
    return (
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
