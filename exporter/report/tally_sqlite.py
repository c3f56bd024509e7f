"""Read each state of an account once, on SQLite, for all figures that count them.

SQLite cannot count by a hash: for each figure by part of the span it would sort all states. And
handing over a row for each state would take the driver longer than all other work together. So
SQLite joins the states of each group into a few texts, and Python takes these apart.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from typing import NamedTuple, TypeAlias

from sqlalchemy import Connection

from exporter.database.sqlite_connection import sqlite_driver
from exporter.history.schema import to_text
from exporter.report.span import Span
from exporter.report.tally import PartChanges, Ranked, Tally, most_kept

# Each column but the first joins one value of each state:
# - One digit: 0 or 1 is the flag of a state that another one followed, 2 or 3 that of a state that
#   was removed or is open.
# - When each began.
# - When each of those ended that were removed.
# - When each of those began that were there before anybody looked.
# SQLite joins in the order in which it reads: the primary key's, that of time. It would read by
# another index without the signs before `valid_to`; `test_plans` proves that it does not.
QUERY = """
SELECT
  order_group_id,
  group_concat(is_auto_cancel_enabled + CASE end_reason WHEN 'changed' THEN 0 ELSE 2 END, ''),
  group_concat(valid_from, ''),
  group_concat(CASE end_reason WHEN 'removed' THEN valid_to END, ''),
  group_concat(CASE WHEN not_before IS NULL THEN valid_from END, '')
FROM order_group_snapshots
WHERE account = :account AND valid_from <= :until AND (+valid_to IS NULL OR +valid_to >= :since)
GROUP BY order_group_id
"""
# The order of these joins is that in which SQLite reads: few states of few groups.
TRIGGERED_BEFORE = """
SELECT before.order_group_id, max(before.valid_to)
FROM json_each(:ids) AS wanted
  CROSS JOIN order_group_snapshots AS before
  CROSS JOIN order_group_snapshots AS after
WHERE before.account = :account
  AND before.order_group_id = wanted.value
  AND before.valid_to < :since
  AND before.end_reason = 'changed'
  AND NOT before.is_auto_cancel_enabled
  AND after.account = before.account
  AND after.order_group_id = before.order_group_id
  AND after.valid_from = before.valid_to
  AND after.is_auto_cancel_enabled
GROUP BY before.order_group_id
"""
_INSTANT = len("2026-03-01T12:30:00.000000Z")
_FALSE, _TRUE, _LAST_FALSE, _LAST_TRUE = "0123"
_ANY_TRUE = _TRUE + _LAST_TRUE
_ANY_LAST = _LAST_FALSE + _LAST_TRUE
_runs_of_true = re.compile(f"{_TRUE}+{_LAST_TRUE}?|{_LAST_TRUE}").finditer
_lasts = re.compile(f"[{_ANY_LAST}]").finditer
_COUNTED_AT_ONCE = 10_000  # states

_Row: TypeAlias = tuple[str, str, str, str | None, str | None]
_Rank: TypeAlias = tuple[int, str, int, str, str]
"""Sorts as the report does: minus the changes, the id; then the states, the first and the last."""


def tally(connection: Connection, account: str, span: Span, named: Collection[str]) -> Tally:
    """Count the states of an account over a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        named: the groups with events.
    """
    since, until = to_text(span.since), to_text(span.until)
    rows = sqlite_driver(connection).execute(
        QUERY, {"account": account, "since": since, "until": until}
    )
    counts = _Pass(since=since, until=until, length=span.slot_length)
    busiest = nsmallest(most_kept(span), counts.read(rows, named))
    read = datetime.fromisoformat
    return Tally(
        standing=counts.standing,
        flagged=counts.flagged,
        changes=counts.by_part(span),
        triggers=_by_part(counts.triggered, span),
        triggers_of=counts.triggers_of,
        last_triggers={group: read(at) for group, at in counts.last_triggers.items()}
        | _before(connection, account, since, counts.true_before),
        trigger_ends={
            group: None if ended_at is None else read(ended_at)
            for group, ended_at in counts.trigger_ends.items()
        },
        busiest=[
            Ranked(id=group, changes=-changes, states=states, first=read(first), last=read(last))
            for changes, group, states, first, last in busiest
        ],
        groups=counts.groups,
    )


def _before(
    connection: Connection, account: str, since: str, ids: Sequence[str]
) -> dict[str, datetime]:
    """Return the latest trigger before an instant of each of some groups that had one."""
    if not ids:
        return {}
    rows = sqlite_driver(connection).execute(
        TRIGGERED_BEFORE, {"account": account, "since": since, "ids": json.dumps(ids)}
    )
    return {group: datetime.fromisoformat(at) for group, at in rows}


@dataclass(slots=True, kw_only=True)
class _Pass:
    """The counts of one pass; each counter counts by slot, see `Span.slot_length`.

    Attributes:
        since, until: the span's ends.
        length: characters of an instant that name its slot.
        standing, flagged, triggers_of, groups: as in `Tally`.
        begun: states that began; `appeared`: those of them that followed no other; `found`: those
            that were there before anybody looked.
        removed: states that ended, and that no other followed.
        rises, falls: states from which on the flag was true, and from which on it was not.
        triggered: triggers.
        last_triggers, trigger_ends: as in `Tally`, for groups with triggers in the span.
        true_before: other groups whose flag was true when the span began.
    """

    since: str
    until: str
    length: int
    standing: int = 0
    flagged: int = 0
    begun: Counter[str] = field(default_factory=Counter)
    appeared: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    rises: Counter[str] = field(default_factory=Counter)
    falls: Counter[str] = field(default_factory=Counter)
    triggered: Counter[str] = field(default_factory=Counter)
    triggers_of: dict[str, int] = field(default_factory=dict)
    last_triggers: dict[str, str] = field(default_factory=dict)
    trigger_ends: dict[str, str | None] = field(default_factory=dict)
    true_before: list[str] = field(default_factory=list)
    groups: int = 0

    def read(self, rows: Iterable[_Row], named: Collection[str]) -> Iterator[_Rank]:
        """Count the states of each group; yield the groups with states that reach into the span."""
        since, length = self.since, self.length
        begun: list[str] = []
        for group, digits, starts, removals, found in rows:
            slots = [starts[at : at + length] for at in range(0, len(starts), _INSTANT)]
            # The first state may have begun before the span; nothing else did.
            before = starts[:_INSTANT] < since
            states = _States(digits, starts, _ends(digits, removals), slots, before)
            changes = len(digits) - before
            if before:
                begun += slots[1:]
            else:
                begun += slots
                self.appeared[slots[0]] += 1
            if removals is not None:
                changes += self._count_removals(states)
            if found is not None:
                changes -= self._count_found(found)
            if _TRUE in digits or _LAST_TRUE in digits:
                self._count_flags(group, states, is_named=group in named)
            # A state that ended when the span begins stood then, but does not reach into it.
            over = before and not self._stands(states)
            if len(digits) > over:
                self.groups += 1
                yield -changes, group, len(digits) - over, states.start(over), starts[-_INSTANT:]
            if len(begun) >= _COUNTED_AT_ONCE:
                self.begun.update(begun)
                begun.clear()
        self.begun.update(begun)

    def _stands(self, states: "_States") -> bool:
        """Count the state that stood when the span began; return whether it outlasted that."""
        self.standing += 1
        self.flagged += states.digits[0] in _ANY_TRUE
        return states.end(0) != self.since

    def _count_removals(self, states: "_States") -> int:
        """Count what a group's removals ended and what came after; return their number."""
        count = 0
        for place, end in states.ends.items():
            if place + 1 < len(states.slots):
                self.appeared[states.slots[place + 1]] += 1
            if end <= self.until:
                self.removed[end[: self.length]] += 1
                count += end > self.since
        return count

    def _count_found(self, found: str) -> int:
        """Count the states of a group that were there before anybody looked; return how many."""
        inside = [each[: self.length] for each in _instants(found) if each >= self.since]
        self.found.update(inside)
        return len(inside)

    def _count_flags(self, group: str, states: "_States", *, is_named: bool) -> None:
        """Count the changes of a group's flag; those to true are triggers if no event named it."""
        digits, slots, before = states.digits, states.slots, states.before
        runs = [run.span() for run in _runs_of_true(digits)]
        for begin, end in runs:
            if begin >= before:
                self.rises[slots[begin]] += 1
            if digits[end - 1] == _TRUE:
                if end < len(slots):
                    self.falls[slots[end]] += 1
            elif (removal := states.ends.get(end - 1)) is not None and removal <= self.until:
                self.falls[removal[: self.length]] += 1
        if is_named:
            return
        triggers = [run for run in runs if run[0] and digits[run[0] - 1] == _FALSE]
        if triggers:
            self.triggered.update([slots[begin] for begin, _ in triggers])
            self.triggers_of[group] = len(triggers)
            begin, end = triggers[-1]
            self.last_triggers[group] = states.start(begin)
            if end < len(slots) or digits[-1] == _LAST_TRUE:  # else the span ended before
                self.trigger_ends[group] = states.end(end - 1)
        elif before and digits[0] in _ANY_TRUE:
            self.true_before.append(group)

    def by_part(self, span: Span) -> dict[int, PartChanges]:
        """Return what happened in the parts of a span."""
        counters = (self.begun, self.appeared, self.found, self.removed, self.rises, self.falls)
        by_part = [_by_part(counter, span) for counter in counters]
        changes = {}
        for part in sorted({part for counter in by_part for part in counter}):
            begun, appeared, found, removed, rises, falls = (each[part] for each in by_part)
            changes[part] = PartChanges(
                appeared=appeared - found,
                changed=begun - appeared,
                disappeared=removed,
                found=found,
                flagged=rises - falls,
            )
        return changes


class _States(NamedTuple):
    """The states of one group that reach into a span.

    Attributes:
        digits, starts: as in `QUERY`.
        ends: when those ended that were removed, by their place.
        slots: in which each began.
        before: whether the first began before the span.
    """

    digits: str
    starts: str
    ends: Mapping[int, str]
    slots: list[str]
    before: bool

    def start(self, place: int) -> str:
        """Return when a state began."""
        return self.starts[place * _INSTANT : (place + 1) * _INSTANT]

    def end(self, place: int) -> str | None:
        """Return when a state ended; None if it is open."""
        if self.digits[place] in _ANY_LAST:
            return self.ends.get(place)
        return self.start(place + 1)


def _ends(digits: str, removals: str | None) -> dict[int, str]:
    """Return when those states ended that were removed, by their place."""
    if removals is None:
        return {}
    if len(removals) == len(digits) * _INSTANT == _INSTANT:  # the most frequent case, made fast
        return {0: removals}
    # Only the last of all can be open, and has no end then.
    return dict(zip((last.start() for last in _lasts(digits)), _instants(removals), strict=False))


def _instants(joined: str) -> list[str]:
    return [joined[at : at + _INSTANT] for at in range(0, len(joined), _INSTANT)]


def _by_part(counter: Counter[str], span: Span) -> Counter[int]:
    found: Counter[int] = Counter()
    for slot, count in counter.items():
        found[span.part_of_slot(slot)] += count
    return found
