"""The states of single order groups over a span, those with the most changes first, within a size.

A lane is what the page draws for one group, as a list: its id, its changes, then by turns an
instant, in ticks since the span's beginning, and what stood from then on: the number of a state;
`ABSENT`; or, for states that are not told one by one, `ABSENT` minus how many.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, case, func, or_, select
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import Instant, order_group_snapshots
from exporter.reading import views
from exporter.report.embedding import as_json
from exporter.report.span import Span

ABSENT = -1

_SHORTEST_LANE = 16  # bytes: bounds how many groups are worth asking for
_BRIEF_LANE = 64  # bytes
_AT_ONCE = 50
_CHANGES_SHOWN_ALL = 300
_RESOLUTION = 600
_EXTRA_LENGTH = 120
_LONG = 86_400.0  # seconds; a longer span is told in seconds, a shorter one in milliseconds

Lane = list[Any]
_State = tuple[Any, ...]
_Event = tuple[float, _State | int]
"""Seconds since the span's beginning, and what stood from then on: see above."""


@dataclass(slots=True, kw_only=True)
class Lanes:
    """The order groups of one account.

    Attributes:
        groups: how many there were in the span.
        tick: seconds of one tick of a lane's instants.
        states: auto-cancel, limit, exchange index, unknown fields; lanes name them by number.
        lanes: one for each group that there was room for.
        size: bytes that `states` and `lanes` will take; never more than there was room for.
    """

    groups: int
    tick: float
    states: dict[_State, int] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    size: int = 0

    def add(self, group: str, changes: int, events: Iterable[_Event], *, room: int) -> bool:
        """Add a group's lane, if there is room for it and its states; tell whether there was."""
        fresh: dict[_State, int] = {}
        lane: Lane = [group, changes]
        for instant, what in events:
            if isinstance(what, int):
                number = what
            elif what in self.states:
                number = self.states[what]
            else:
                number = fresh.setdefault(what, len(self.states) + len(fresh))
            lane += [round(instant / self.tick), number]
        size = sum(len(as_json(each)) + 1 for each in (lane, *fresh))
        if self.size + size > room:
            return False
        self.states |= fresh
        self.lanes.append(lane)
        self.size += size
        return True


def lanes(connection: Connection, account: str, span: Span, *, room: int) -> Lanes:
    """Read the lanes of an account's groups until there is no more room.

    Once it gets scarce, all but the last state of a group become one.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        room: bytes that they may take.
    """
    states = order_group_snapshots
    here = _overlapping(account, span)
    total = connection.scalar(
        select(func.count(func.distinct(states.c.order_group_id))).where(here)
    )
    found = Lanes(groups=total or 0, tick=_tick(span))
    ranked = _ranked(connection, span, here, limit=max(room, 0) // _SHORTEST_LANE)
    for start in range(0, len(ranked), _AT_ONCE):
        changes = dict(ranked[start : start + _AT_ONCE])
        # Half of the room is for telling much of some groups, if all cannot be told in brief.
        plenty = room - min(_BRIEF_LANE * (len(ranked) - start), room // 2)
        read = dict(
            _read(_rows(connection, account, span, list(changes)), span, changes)
            if found.size < plenty
            else _brief(connection, account, span, changes)
        )
        # Those with the most changes come first, whatever the order in which they are read.
        for group, count in changes.items():
            events = read[group]
            if not (
                found.add(group, count, events, room=plenty)
                or found.add(group, count, _shortened(events), room=room)
            ):
                return found
    return found


def _tick(span: Span) -> float:
    return 1.0 if span.seconds > _LONG else 0.001


def _overlapping(account: str, span: Span) -> ColumnElement[bool]:
    states = order_group_snapshots
    return and_(
        states.c.account == account,
        states.c.valid_from <= span.until,
        or_(states.c.valid_to.is_(None), states.c.valid_to > span.since),
    )


def _ranked(
    connection: Connection, span: Span, here: ColumnElement[bool], *, limit: int
) -> list[tuple[str, int]]:
    """Groups and how often each appeared, changed or disappeared, most often first."""
    states = order_group_snapshots
    begun = and_(states.c.valid_from >= span.since, states.c.not_before.is_not(None))
    gone = and_(states.c.end_reason == "removed", states.c.valid_to <= span.until)
    changes = func.sum(case((begun, 1), else_=0) + case((gone, 1), else_=0))
    on_sqlite = connection.dialect.name == "sqlite"
    rows = connection.execute(
        select(states.c.order_group_id, changes)
        .where(here)
        .group_by(states.c.order_group_id)
        .order_by(changes.desc(), *views.in_order((states.c.order_group_id,), on_sqlite=on_sqlite))
        .limit(limit)
    )
    return [(group, int(count)) for group, count in rows]


def _rows(connection: Connection, account: str, span: Span, ids: list[str]) -> Iterable[Any]:
    """The states of some groups, group by group, in order of time."""
    states = order_group_snapshots
    return connection.execute(
        select(*_columns(connection))
        .where(_overlapping(account, span), states.c.order_group_id.in_(ids))
        .order_by(states.c.order_group_id, states.c.valid_from),
        execution_options={"yield_per": 5_000},
    )


def _read(
    rows: Iterable[Any], span: Span, changes: dict[str, int]
) -> Iterator[tuple[str, list[_Event]]]:
    """The events of each group, by its states; as many as can be seen."""
    for group, mine in groupby(rows, key=itemgetter(0)):
        events = _events(mine, span)
        if changes[group] > _CHANGES_SHOWN_ALL:
            events = _seen(events, span.seconds / _RESOLUTION)
        yield group, list(events)


def _brief(
    connection: Connection, account: str, span: Span, changes: dict[str, int]
) -> Iterator[tuple[str, list[_Event]]]:
    """The last state alone of each group, and the number of those before it."""
    states = order_group_snapshots
    ends = (
        select(
            states.c.order_group_id.label("id"),
            func.min(states.c.valid_from, type_=Instant).label("first"),
            func.max(states.c.valid_from, type_=Instant).label("last"),
            func.count().label("count"),
        )
        .where(_overlapping(account, span), states.c.order_group_id.in_(list(changes)))
        .group_by(states.c.order_group_id)
        .subquery()
    )
    rows = connection.execute(
        select(*_columns(connection), ends.c.first, ends.c.count)
        .join_from(ends, states, states.c.order_group_id == ends.c.id)
        .where(states.c.account == account, states.c.valid_from == ends.c.last)
    )
    for *row, first, count in rows:
        before = [(_since(span, first), ABSENT - (count - 1))] if count > 1 else []
        yield row[0], [*before, *_events([row], span)]


def _shortened(events: Sequence[_Event]) -> list[_Event]:
    """What `_brief` would have told."""
    last = len(events) - 1
    while last > 0 and isinstance(events[last][1], int):  # gone, in the end
        last -= 1
    count = sum(1 if not isinstance(what, int) else ABSENT - what for _, what in events[:last])
    return [*([(events[0][0], ABSENT - count)] if count else []), *events[last:]]


def _columns(connection: Connection) -> tuple[ColumnElement[Any], ...]:
    states = order_group_snapshots
    return (
        states.c.order_group_id,
        states.c.valid_from,
        states.c.valid_to,
        states.c.end_reason,
        states.c.is_auto_cancel_enabled,
        states.c.contracts_limit,
        states.c.exchange_index,
        _text(connection, states.c.extra),
    )


def _text(connection: Connection, extra: ColumnElement[Any]) -> ColumnElement[Any]:
    """SQL for the beginning of the unknown fields, as stored."""
    stored = views.as_text(extra, on_sqlite=connection.dialect.name == "sqlite")
    return func.substr(coerce(stored, Text), 1, _EXTRA_LENGTH)


def _events(rows: Iterable[Any], span: Span) -> Iterator[_Event]:
    """When a group's state became which."""
    for _, valid_from, valid_to, end_reason, enabled, limit, *rest in rows:
        state = (int(enabled), None if limit is None else format(limit, "f"), *rest)
        yield _since(span, valid_from), state
        if end_reason == "removed" and valid_to <= span.until:
            yield _since(span, valid_to), ABSENT


def _since(span: Span, instant: datetime) -> float:
    return max((instant - span.since).total_seconds(), 0.0)


def _seen(events: Iterable[_Event], resolution: float) -> Iterator[_Event]:
    """Make one of all that happens too closely to be seen, but for the state that remains."""
    begun = 0.0
    count = 0
    latest: _Event | None = None
    for event in events:
        if latest is not None and event[0] // resolution == begun // resolution:
            count += 1
        else:
            if latest is not None:
                yield from _one(begun, count, latest)
            begun, count = event[0], 1
        latest = event
    if latest is not None:
        yield from _one(begun, count, latest)


def _one(begun: float, count: int, latest: _Event) -> Iterator[_Event]:
    if count > 1:
        yield begun, ABSENT - (count - 1)
    yield latest
