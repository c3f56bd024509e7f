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

from sqlalchemy import Connection, FromClause, Select, and_, select

from exporter.history.schema import order_group_events
from exporter.reading import views
from exporter.report.flags import before_and_after, end_of, flagged
from exporter.report.lookup import wanted
from exporter.report.span import Span
from exporter.report.tally import Tally

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
        last, ends: of other groups, as `last_triggers` and `trigger_ends` of a `Tally`.
    """

    counts: Mapping[str, int]
    by_part: Sequence[tuple[int, int, int]]
    weighed: Mapping[str, Sequence[Trigger]]
    last: Mapping[str, datetime]
    ends: Mapping[str, datetime | None]


def triggers_of(
    connection: Connection, account: str, span: Span, tally: Tally, named: Sequence[str]
) -> Triggers:
    """Count the triggers of an account in a span; read those of groups with events.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        tally: of the account.
        named: its groups with events.
    """
    weighed = _weighed(connection, account, span, named)
    counts = {
        group: sum(span.since <= each.at <= span.until for each in found)
        for group, found in weighed.items()
    }
    parts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for found in weighed.values():
        for each in found:
            if span.since <= each.at <= span.until:
                parts[span.part(each.at)][0 if each.told else 1] += 1
    for part, count in tally.triggers.items():
        parts[part][1] += count
    by_part = [(part, told, shown) for part, (told, shown) in sorted(parts.items())]
    return Triggers(
        counts={**counts, **tally.triggers_of},
        by_part=by_part,
        weighed=weighed,
        last=tally.last_triggers,
        ends=tally.trigger_ends,
    )


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
    lasts = {group: triggers.last[group] for group in ids if group in triggers.last}
    if last_only:
        known = {
            group: [Trigger(at, triggers.ends[group], told=False)]
            for group, at in lasts.items()
            if group in triggers.ends
        }
        rest = {group: at for group, at in lasts.items() if group not in known}
        found = known | (_last_flagged(connection, account, span, rest) if rest else {})
    else:
        found = _all_flagged(connection, account, span, list(lasts)) if lasts else {}
    return found | {
        group: triggers.weighed[group][-1 if last_only else 0 :]
        for group in ids
        if group in triggers.weighed
    }


def _last_flagged(
    connection: Connection, account: str, span: Span, lasts: Mapping[str, datetime]
) -> dict[str, list[Trigger]]:
    """Return those of some triggers, each the last of a group, that reach into a span."""
    _, after = before_and_after()
    table, group, at = wanted(connection, lasts)
    same = and_(
        after.c.account == account, after.c.order_group_id == group, after.c.valid_from == at
    )
    return _reaching(connection, select().select_from(table.join(after, same)), after, span)


def _all_flagged(
    connection: Connection, account: str, span: Span, ids: Sequence[str]
) -> dict[str, list[Trigger]]:
    """Return the triggers of some groups that reach into a span, in order of time."""
    before, after = before_and_after()
    rows = (
        flagged(account, before, after)
        .where(before.c.order_group_id.in_(ids))
        .order_by(before.c.valid_to)
    )
    return _reaching(connection, rows, after, span)


def _reaching(
    connection: Connection, rows: Select[Any], after: FromClause, span: Span
) -> dict[str, list[Trigger]]:
    found: dict[str, list[Trigger]] = defaultdict(list)
    columns = (after.c.order_group_id, after.c.valid_from, end_of(after))
    for group, at, ended_at in connection.execute(rows.add_columns(*columns)):
        if at <= span.until and (ended_at is None or ended_at >= span.since):
            found[group].append(Trigger(at, ended_at, told=False))
    return found


def groups_with_events(connection: Connection, account: str) -> Sequence[str]:
    """Return the order groups of an account that events ever named.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
    """
    events = order_group_events
    return connection.scalars(
        select(events.c.order_group_id).where(events.c.account == account).distinct()
    ).all()


def _weighed(
    connection: Connection, account: str, span: Span, named: Sequence[str]
) -> dict[str, list[Trigger]]:
    """Return the triggers of groups with events that reach into a span, in order of time."""
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


def _of_groups(account: str, ids: Sequence[str]) -> Select[Any]:
    """Return the view's rows of some groups: SQLite looks up those that it is given as a list."""
    view = views.order_group_triggers
    columns = (view.c.order_group_id, view.c.triggered_at, view.c.ended_at, view.c.evidence)
    return select(*columns).where(view.c.account == account, view.c.order_group_id.in_(ids))
