"""What the states of an account's order groups say of a span: the figures that count all of them.

`tally_sqlite` reads each state once. `tally_postgres` asks for each figure, because the server
counts faster than a client could read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from exporter.report.span import Span


class PartChanges(NamedTuple):
    """What happened to order groups in one part of a span.

    Attributes:
        appeared, changed, disappeared: how many did.
        found: how many were there before anybody looked.
        flagged: how many more have a true `is_auto_cancel_enabled` at the end than at the start.
    """

    appeared: int
    changed: int
    disappeared: int
    found: int
    flagged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An order group, and what polls saw of it in a span.

    Attributes:
        id: its id.
        changes: how often it appeared, changed or disappeared.
        states: how many states polls saw; the first and the last of them began at `first` and
            `last`, which are None if there are none.
    """

    id: str
    changes: int = 0
    states: int = 0
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the states of an account's order groups say of a span.

    A trigger here is a change of `is_auto_cancel_enabled` to true in a group without events.

    Attributes:
        standing, flagged: groups that stood when the span began, and those with a true flag.
        changes: what happened, for the parts with anything, by the number of the part.
        triggers: how many triggers there were, by the number of the part.
        triggers_of: the same by group.
        last_triggers: the latest trigger of each group that triggered before the span's end. A
            group may be left out if all its triggers ended before the span.
        trigger_ends: when these triggers ended, as far as it is known; None for one that has not
            ended.
        busiest: groups with what happened to them, those that changed most first.
        groups: how many groups there are; `busiest` may hold fewer.
    """

    standing: int
    flagged: int
    changes: Mapping[int, PartChanges]
    triggers: Mapping[int, int]
    triggers_of: Mapping[str, int]
    last_triggers: Mapping[str, datetime]
    trigger_ends: Mapping[str, datetime | None]
    busiest: Sequence[Ranked]
    groups: int


_KEPT = 175_000  # groups in `busiest`, of all accounts: a page has no room for more


def most_kept(span: Span) -> int:
    """Return how many groups `Tally.busiest` holds at most."""
    return span.at_most(_KEPT, _KEPT)
