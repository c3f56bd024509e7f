"""The timelines of single order groups: as many as a page has room for, the busiest first.

They are added to an account's packed lines in batches. A batch is `{"states", "kinds", "groups"}`:
the states and kinds of event that are new in it, and one list for each group: its id, its changes,
its triggers, and three flat lists. Instants in these are milliseconds, each since the one before,
the first since the span's beginning.

- States: instant and number of the state from then on; `ABSENT`; or, for states that are not
  listed one by one, `ABSENT` minus how many.
- Events: the exchange's instant and the number of the kind.
- Triggers: the instant, how long it lasted (-1 if nothing ended it), and 1 if the exchange told it,
  0 if only the flag shows it.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from exporter.report.embedding import Packed
from exporter.report.ranking import ranked_groups
from exporter.report.span import Span
from exporter.report.tally import Ranked, Tally
from exporter.report.timeline_rows import ABSENT, Event, brief_states, events_of, states_of
from exporter.report.triggers import Trigger, Triggers, timelines_of

_SHORTEST = 8  # characters that a group takes at least: bounds how many are worth asking for
_BRIEF = 36  # characters of one that is told in brief
_AT_ONCE = 200
_FEWEST_AT_ONCE = 8
_STATES = 100_000  # of all groups, that are read one by one
_INSTANTS_SHOWN_ALL = 300
_RESOLUTION = 600

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How many order groups an account had in the span, and how many of them the page shows."""

    groups: int
    shown: int


class _Numbers(Generic[Key]):
    """Numbers for values that occur often; those since the last `keep` can be taken back."""

    def __init__(self) -> None:
        self._known: dict[Key, int] = {}
        self._fresh: dict[Key, int] = {}

    def of(self, value: Key) -> int:
        """Return the number of a value."""
        if value in self._known:
            return self._known[value]
        return self._fresh.setdefault(value, len(self._known) + len(self._fresh))

    def fresh(self) -> list[Key]:
        """Return the values that are new since the last `keep`, in the order of their numbers."""
        return list(self._fresh)

    def keep(self) -> None:
        """Make the new values known."""
        self._known |= self._fresh
        self._fresh = {}

    def drop(self) -> None:
        """Forget the new values."""
        self._fresh = {}


def add_timelines(
    connection: Connection,
    account: str,
    span: Span,
    tally: Tally,
    triggers: Triggers,
    *,
    packed: Packed,
    room: int,
) -> Shown:
    """Add the timelines of an account's groups until there is no more room.

    Once room gets scarce, groups are told in brief: the last state, and how many were before it.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        tally: of the account.
        triggers: of the account.
        packed: where to add them.
        room: the size that `packed` must not exceed.
    """
    limit = max(room - packed.size, 0) // _SHORTEST
    ranked, count = ranked_groups(connection, account, span, tally, triggers, limit=limit)
    states: _Numbers[tuple[Any, ...]] = _Numbers()
    kinds: _Numbers[tuple[Any, ...]] = _Numbers()
    whole, unread = True, span.at_most(_STATES, _STATES)
    done, at_once, before = 0, _AT_ONCE, packed.size
    while done < len(ranked):
        batch = ranked[done : done + at_once]
        # Half of the room is for telling much of some groups, if all cannot be told in brief.
        rest = len(ranked) - done - len(batch)
        plenty = room - min(_BRIEF * rest, (room - before) // 2)
        unread -= sum(group.changes + 1 for group in batch)
        whole = whole and packed.size < plenty and unread >= 0
        lists = _lists(
            connection, account, span, batch, triggers, numbers=(states, kinds), whole=whole
        )
        line = {"states": states.fresh(), "kinds": kinds.fresh(), "groups": lists}
        if packed.add(line, room=plenty if whole else room):
            states.keep()
            kinds.keep()
            done += len(batch)
            continue
        states.drop()
        kinds.drop()
        if whole:
            whole = False
        elif at_once > _FEWEST_AT_ONCE:
            at_once //= 2
        else:
            break
    return Shown(groups=count, shown=done)


def _lists(
    connection: Connection,
    account: str,
    span: Span,
    batch: list[Ranked],
    triggers: Triggers,
    *,
    numbers: tuple[_Numbers[tuple[Any, ...]], _Numbers[tuple[Any, ...]]],
    whole: bool,
) -> list[list[Any]]:
    """Return the list of each group of a batch."""
    states, kinds = numbers
    ids = [group.id for group in batch]
    if whole:
        timelines = states_of(connection, account, span, ids)
    else:
        timelines = brief_states(connection, account, span, batch)
    triggered = timelines_of(connection, account, span, triggers, ids, last_only=not whole)
    events = events_of(connection, account, span, ids) if whole else {}
    found = []
    for group in batch:
        shown = timelines.get(group.id, [])
        if len(shown) > _INSTANTS_SHOWN_ALL:
            shown = _thinned(shown, span.seconds / _RESOLUTION)
        happened = events.get(group.id, ())
        found_triggers = triggered.get(group.id, ())
        lists = [
            _flat(
                _deltas(span, [at for at, _ in shown]),
                [what if isinstance(what, int) else states.of(what) for _, what in shown],
            ),
            _flat(
                _deltas(span, [at for at, _ in happened]),
                [kinds.of(kind) for _, kind in happened],
            ),
            _flat(
                _deltas(span, [each.at for each in found_triggers]),
                [_lasting(each) for each in found_triggers],
                [int(each.told) for each in found_triggers],
            ),
        ]
        while lists and not lists[-1]:
            lists.pop()
        found.append([group.id, group.changes, triggers.counts.get(group.id, 0), *lists])
    return found


def _deltas(span: Span, instants: Iterable[datetime]) -> list[int]:
    """Return instants, each since the one before, the first since the span's beginning."""
    deltas = []
    before = 0
    for at in instants:
        instant = max(_milliseconds(span.since, at), 0)
        deltas.append(instant - before)
        before = instant
    return deltas


def _flat(*columns: list[int]) -> list[int]:
    """Return the rows of some columns as one list."""
    return list(chain.from_iterable(zip(*columns, strict=True)))


def _lasting(trigger: Trigger) -> int:
    return -1 if trigger.ended_at is None else _milliseconds(trigger.at, trigger.ended_at)


def _milliseconds(start: datetime, end: datetime) -> int:
    return round((end - start).total_seconds() * 1000)


def _thinned(events: list[Event], resolution: float) -> list[Event]:
    """Make one of all states that follow too closely to be told apart, except the last of them."""
    thinned: list[Event] = []
    begun, count = events[0][0], 0
    for number, (at, what) in enumerate(events):
        count += 1
        last = number == len(events) - 1
        if not last and (events[number + 1][0] - begun).total_seconds() < resolution:
            continue
        if count > 1:
            thinned.append((begun, ABSENT - (count - 1)))
        thinned.append((at, what))
        if not last:
            begun, count = events[number + 1][0], 0
    return thinned
