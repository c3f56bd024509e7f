"""Count the states of an account on Postgres, which answers each question from its own plan."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Select, case, func, or_, select

from exporter.history.schema import Instant, order_group_snapshots
from exporter.report.flags import before_and_after, flagged
from exporter.report.ranking import most_changed
from exporter.report.span import Span
from exporter.report.tally import PartChanges, Tally, most_kept

_BEFORE = -1
"""The number of the part of what was there when the span began."""

_Parts: TypeAlias = dict[int, tuple[int, int, int]]
"""By part: states, those with a true flag, and those with another condition."""


def tally(connection: Connection, account: str, span: Span) -> Tally:
    """Count the states of an account over a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
    """
    begun, ended = _begun_and_ended(connection, account, span)
    standing, flagged_, _ = begun.pop(_BEFORE, (0, 0, 0))
    changes = {}
    for part in sorted({*begun, *ended}):
        new, new_on, found = begun.get(part, (0, 0, 0))
        old, old_on, changed = ended.get(part, (0, 0, 0))
        # A change ends one state and begins another.
        changes[part] = PartChanges(
            appeared=new - changed - found,
            changed=changed,
            disappeared=old - changed,
            found=found,
            flagged=new_on - old_on,
        )
    triggers_of, last_triggers = {}, {}
    for group, at, count in connection.execute(
        _triggers_by_group(account, span), execution_options={"yield_per": 1_000}
    ):
        last_triggers[group] = at
        if count:
            triggers_of[group] = count
    triggers: Counter[int] = Counter()
    for begin, count in connection.execute(_triggers_by_part(account, span)):
        triggers[span.part(begin)] += count
    busiest, groups = most_changed(connection, account, span, limit=most_kept(span))
    return Tally(
        standing=standing,
        flagged=flagged_,
        changes=changes,
        triggers=triggers,
        triggers_of=triggers_of,
        last_triggers=last_triggers,
        trigger_ends={},
        busiest=busiest,
        groups=groups,
    )


def _begun_and_ended(connection: Connection, account: str, span: Span) -> tuple[_Parts, _Parts]:
    """Count the states that began and ended in a span, and those that stood when it began.

    Returns:
        Those that began, and how many of them were there before anybody looked; the part of those
        that stood is `_BEFORE`. And those that ended, and how many of them another state followed.
    """
    states = order_group_snapshots
    begin = case((states.c.valid_from >= span.since, _part_of(states.c.valid_from, span)))
    end = _part_of(states.c.valid_to, span)
    began = (begin, states.c.is_auto_cancel_enabled, states.c.not_before.is_(None))
    ended = (end, states.c.is_auto_cancel_enabled, states.c.end_reason == "changed")
    counted = select(func.count()).where(
        states.c.account == account,
        states.c.valid_from <= span.until,
        or_(states.c.valid_to.is_(None), states.c.valid_to >= span.since),
    )
    return (
        _by_part(connection, counted, began, span),
        _by_part(connection, counted.where(states.c.valid_to <= span.until), ended, span),
    )


def _by_part(
    connection: Connection, counted: Select[Any], key: tuple[ColumnElement[Any], ...], span: Span
) -> _Parts:
    found: _Parts = {}
    for count, begin, on, special in connection.execute(counted.add_columns(*key).group_by(*key)):
        part = _BEFORE if begin is None else span.part(begin)
        states, flagged_, specials = found.get(part, (0, 0, 0))
        found[part] = (states + count, flagged_ + count * on, specials + count * special)
    return found


def _triggers_by_group(account: str, span: Span) -> Select[Any]:
    """Return the group, its last trigger until the span's end, and how many it has in the span."""
    before, after = before_and_after()
    at = before.c.valid_to
    inside = func.count(case((at >= span.since, 1)))
    return (
        flagged(account, before, after)
        .add_columns(before.c.order_group_id, func.max(at, type_=Instant), inside)
        .where(at <= span.until)
        .group_by(before.c.order_group_id)
    )


def _triggers_by_part(account: str, span: Span) -> Select[Any]:
    before, after = before_and_after()
    at = before.c.valid_to
    part = _part_of(at, span).label("part")
    return (
        flagged(account, before, after)
        .add_columns(part, func.count())
        .where(at >= span.since, at <= span.until)
        .group_by(part)
    )


def _part_of(instant: ColumnElement[datetime], span: Span) -> ColumnElement[datetime]:
    """Return SQL for when the part begins in which an instant lies."""
    start = datetime.fromtimestamp(span.start, UTC)
    return func.date_bin(timedelta(seconds=span.width), instant, start, type_=Instant)
