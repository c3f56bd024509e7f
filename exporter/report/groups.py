"""How many order groups existed and changed in each part of a span."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from exporter.history.schema import order_group_snapshots
from exporter.reading import views
from exporter.report.span import Span, part_of


@dataclass(slots=True, kw_only=True)
class Groups:
    """The order groups of one account in a span.

    Attributes:
        standing: at the end of each part, as last seen in it; None where nothing was observed.
        flagged: those of them whose `is_auto_cancel_enabled` was true: probably triggered.
        changes: for the parts with any: number of the part; groups that appeared, changed and
            disappeared.
        total: the same three for the whole span.
        now: standing at the span's last observation, and those of them that were flagged.
    """

    standing: list[int | None] = field(default_factory=list)
    flagged: list[int | None] = field(default_factory=list)
    changes: list[tuple[int, int, int, int]] = field(default_factory=list)
    total: tuple[int, int, int] = (0, 0, 0)
    now: tuple[int, int] = (0, 0)


def groups(connection: Connection, account: str, span: Span, seen: bytearray) -> Groups:
    """Count the order groups of an account over a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        seen: for each part, whether the account was observed in it.
    """
    states = order_group_snapshots
    standing, on = connection.execute(
        select(func.count(), _sum(states.c.is_auto_cancel_enabled)).where(
            states.c.account == account,
            states.c.valid_from < span.since,
            or_(states.c.valid_to.is_(None), states.c.valid_to >= span.since),
        )
    ).one()
    there_before = states.c.not_before.is_(None)
    begun = dict(_by_part(connection, account, span, states.c.valid_from, there_before))
    ended = dict(
        _by_part(connection, account, span, states.c.valid_to, states.c.end_reason == "changed")
    )
    found = Groups()
    appeared_in_all = changed_in_all = disappeared_in_all = 0
    for part in range(span.parts):
        new, new_on, known = begun.get(part, (0, 0, 0))
        old, old_on, changed = ended.get(part, (0, 0, 0))
        standing += new - old
        on += new_on - old_on
        # A change ends one state and begins another; what is new beyond that has appeared, except
        # what was there before anybody looked.
        appeared, disappeared = new - changed - known, old - changed
        if appeared or changed or disappeared:
            found.changes.append((part, appeared, changed, disappeared))
            appeared_in_all += appeared
            changed_in_all += changed
            disappeared_in_all += disappeared
        found.standing.append(standing if seen[part] else None)
        found.flagged.append(on if seen[part] else None)
    found.total = (appeared_in_all, changed_in_all, disappeared_in_all)
    found.now = (standing, on)
    return found


def _by_part(
    connection: Connection,
    account: str,
    span: Span,
    instant: ColumnElement[datetime],
    special: ColumnElement[bool],
) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """For each part with any: states whose instant lies in it, those that are on, and special."""
    states = order_group_snapshots
    part = part_of(connection, instant, span).label("part")
    # Most of the account's history, where the span is long: to be read in its own order. SQLite
    # would take the index by time, and go through all accounts once for each of them.
    plain = views.unindexed(instant, on_sqlite=connection.dialect.name == "sqlite")
    rows = connection.execute(
        select(part, func.count(), _sum(states.c.is_auto_cancel_enabled), _sum(special))
        .where(and_(states.c.account == account, plain >= span.since, plain <= span.until))
        .group_by(part)
    )
    for number, count, enabled, special_count in rows:
        yield number, (count, enabled, special_count)


def _sum(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return SQL for the number of rows for which a condition holds."""
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
