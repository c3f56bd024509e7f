"""How many order groups existed and changed in each part of a span."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from exporter.history.schema import order_group_snapshots
from exporter.report.span import Span, slot_of

BEFORE = -1
"""The number of the part of what was there when the span began."""

_Key: TypeAlias = tuple[ColumnElement[Any], ...]


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
    begun, ended = (_by_part(each, span) for each in _tallied(connection, account, span))
    standing, on, _ = begun.pop(BEFORE, (0, 0, 0))
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


Tally: TypeAlias = Mapping[tuple[str | datetime | None, bool, bool], int]
"""The number of states by slot (see `slot_of`), by the flag, and by another condition."""


def _tallied(connection: Connection, account: str, span: Span) -> tuple[Tally, Tally]:
    """Count the states that began and ended in a span, and those that stood when it began.

    Returns:
        Those that began, by slot, flag, and whether they were there before anybody looked; the slot
        of those that stood is None. And those that ended, by slot, flag, and whether another state
        followed.
    """
    states = order_group_snapshots
    begin = case(
        (states.c.valid_from >= span.since, slot_of(connection, states.c.valid_from, span))
    )
    end = slot_of(connection, states.c.valid_to, span)
    began = (begin, states.c.is_auto_cancel_enabled, states.c.not_before.is_(None))
    ended = (end, states.c.is_auto_cancel_enabled, states.c.end_reason == "changed")
    rows = (
        states.c.account == account,
        states.c.valid_from <= span.until,
        or_(states.c.valid_to.is_(None), states.c.valid_to >= span.since),
    )
    if connection.dialect.name == "sqlite":
        return _tallied_on_sqlite(connection, began, ended, rows, states.c.valid_to <= span.until)
    counted = select(func.count()).where(*rows)
    tallies = (
        counted.add_columns(*began).group_by(*began),
        counted.add_columns(*ended).where(states.c.valid_to <= span.until).group_by(*ended),
    )
    first, second = (
        {(slot, on, special): count for count, slot, on, special in connection.execute(tally)}
        for tally in tallies
    )
    return first, second


def _tallied_on_sqlite(
    connection: Connection,
    began: _Key,
    ended: _Key,
    rows: Sequence[ColumnElement[bool]],
    has_ended: ColumnElement[bool],
) -> tuple[Tally, Tally]:
    """Count in Python, because SQLite would sort all states, which takes twice as long.

    The states of each group come as one row of texts: a row of each state would take as long again.
    """
    beginnings: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    texts = connection.execute(
        select(
            func.group_concat(_as_text(began)),
            func.group_concat(case((has_ended, _as_text(ended)))),
        )
        .where(*rows)
        .group_by(order_group_snapshots.c.order_group_id),
        execution_options={"yield_per": 100},
    )
    for begin, end in texts:
        beginnings.update(begin.split(","))
        ends.update((end or "").split(","))
    del ends[""]
    return _read(beginnings), _read(ends)


def _read(counter: Counter[str]) -> Tally:
    return {
        (key[2:] or None, key[0] == "1", key[1] == "1"): count for key, count in counter.items()
    }


def _as_text(key: _Key) -> ColumnElement[str]:
    slot, *conditions = key
    one, other = (case((each, "1"), else_="0") for each in conditions)
    return one.concat(other).concat(func.coalesce(slot, ""))


def _by_part(tally: Tally, span: Span) -> dict[int, tuple[int, int, int]]:
    """Return the states of each part, those with a true flag, and those with the condition."""
    found: dict[int, tuple[int, int, int]] = {}
    for (slot, on, special), count in tally.items():
        part = BEFORE if slot is None else span.part_of_slot(slot)
        states, flagged, specials = found.get(part, (0, 0, 0))
        found[part] = (states + count, flagged + count * on, specials + count * special)
    return found
