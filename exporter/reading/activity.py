"""Count what happened to the order groups of all accounts since an instant: changes and triggers.

The counts are those of the views `order_group_changes` and `order_group_triggers`. The views also
say what belongs to each row: the event that explains a change, and the end of a trigger and its
limit. SQLite works all of that out even for a count, which takes several times as long as counting.
This module therefore counts in the tables, for all accounts at once: their rows since an instant
are found by time. A test compares its counts with the views.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    Text,
    and_,
    case,
    exists,
    func,
    literal_column,
    not_,
    select,
    true,
    union_all,
)

from exporter.history.schema import order_group_events, order_group_snapshots
from exporter.reading import views

_DOUBTFUL = "doubtful"
_FLAG = "flag"


@dataclass(slots=True, kw_only=True)
class Activity:
    """How many order groups of one account appeared, changed and disappeared, and its triggers."""

    appeared: int = 0
    changed: int = 0
    disappeared: int = 0
    triggers: int = 0

    @property
    def changes(self) -> int:
        """Return the number of all changes."""
        return self.appeared + self.changed + self.disappeared


def activity_since(connection: Connection, since: datetime) -> dict[str, Activity]:
    """Count the changes and triggers of every account since an instant.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        since: the first instant that counts.

    Returns:
        By account; accounts without any are left out.
    """
    on_sqlite = connection.dialect.name == "sqlite"
    found: dict[str, Activity] = defaultdict(Activity)
    flagged: dict[str, int] = defaultdict(int)
    is_doubtful = False
    for account, change, trigger, count in connection.execute(_ended(since, on_sqlite=on_sqlite)):
        if change == "changed":
            found[account].changed += count
        elif change == "disappeared":
            found[account].disappeared += count
        if trigger == _FLAG:
            flagged[account] += count
        is_doubtful |= trigger == _DOUBTFUL
    if is_doubtful:
        flagged = dict(iter(connection.execute(_flagged(since))))
    for account, count in connection.execute(_appeared(since, on_sqlite=on_sqlite)):
        found[account].appeared += count
    for account, count in connection.execute(_heard(since, on_sqlite=on_sqlite)):
        found[account].triggers += count
    for account, count in flagged.items():
        found[account].triggers += count
    return dict(found)


def _ended(since: datetime, *, on_sqlite: bool) -> Select[Any]:
    """Return the number of states that ended, by account, by what that was, and by its trigger.

    A flag that went from false to true is a trigger unless an event explains it. If its group has
    no events, none does. If both clocks put a trigger's event between the two polls, that one does.
    The rest is doubtful: only the view weighs it.
    """
    before, event = order_group_snapshots.alias("p"), order_group_events.alias("e")
    after, joined = _followed(before, on_sqlite=on_sqlite)
    # Limited, these are looked up: of an EXISTS, Postgres would read the whole table.
    named = (
        select(event.c.event_type)
        .where(
            event.c.account == before.c.account,
            event.c.order_group_id == before.c.order_group_id,
        )
        .limit(1)
    )
    between = named.where(
        event.c.event_type == "triggered",
        event.c.occurred_at >= after.c.not_before,
        event.c.occurred_at <= before.c.valid_to,
        event.c.received_at > after.c.not_before,
        event.c.received_at <= before.c.valid_to,
    )
    change = case(
        (after.c.not_before.is_not(None), "changed"),
        (
            and_(before.c.end_reason == "removed", before.c.last_seen_at.is_not(None)),
            "disappeared",
        ),
    ).label("change")
    is_flagged = and_(not_(before.c.is_auto_cancel_enabled), after.c.is_auto_cancel_enabled)
    trigger = case(
        (
            is_flagged,
            case(
                (between.scalar_subquery().is_not(None), None),
                (named.scalar_subquery().is_not(None), _DOUBTFUL),
                else_=_FLAG,
            ),
        )
    ).label("trigger")
    account = views.unindexed(before.c.account, on_sqlite=on_sqlite).label("account")
    return (
        select(account, change, trigger, func.count())
        .select_from(joined)
        .where(before.c.valid_to >= since)
        .group_by(account, change, trigger)
    )


def _followed(before: FromClause, *, on_sqlite: bool) -> tuple[FromClause, FromClause]:
    """Return the state that follows another if that one changed, and the join of the two."""
    after = order_group_snapshots.alias("s")
    follows = and_(
        before.c.end_reason == "changed",
        after.c.account == before.c.account,
        after.c.order_group_id == before.c.order_group_id,
        after.c.valid_from == before.c.valid_to,
    )
    if on_sqlite:
        return after, before.outerjoin(after, follows)
    # Postgres expects more states than there are, and would read the whole table to join them.
    looked_up = select(after).where(follows).limit(1).lateral("s")
    return looked_up, before.outerjoin(looked_up, true())


def _appeared(since: datetime, *, on_sqlite: bool) -> Select[Any]:
    """Return the number of groups that appeared, by account."""
    before, after = (order_group_snapshots.alias(name) for name in "ps")
    # The words of SQLite's index, to the letter.
    appeared = func.coalesce(after.c.begin_reason, _APPEARED) == _APPEARED
    changed = exists().where(
        before.c.account == after.c.account,
        before.c.order_group_id == after.c.order_group_id,
        before.c.valid_to == after.c.valid_from,
        before.c.end_reason == "changed",
    )
    account = views.unindexed(after.c.account, on_sqlite=on_sqlite).label("account")
    return (
        select(account, func.count())
        .where(after.c.valid_from >= since, appeared, after.c.not_before.is_not(None), ~changed)
        .group_by(account)
    )


_APPEARED = literal_column("'appeared'", Text)


def _heard(since: datetime, *, on_sqlite: bool) -> CompoundSelect[Any]:
    """Return the number of triggers that the exchange reported, by account, in two parts."""
    events = order_group_events
    account = views.unindexed(events.c.account, on_sqlite=on_sqlite).label("account")
    counted = (
        select(account, func.count()).where(events.c.event_type == "triggered").group_by(account)
    )
    return union_all(
        counted.where(events.c.event_at >= since),
        counted.where(events.c.event_at.is_(None), events.c.received_at >= since),
    )


def _flagged(since: datetime) -> Select[Any]:
    """Return the number of triggers that only the flag shows, by account."""
    triggers = views.order_group_triggers
    return (
        select(triggers.c.account, func.count())
        .where(triggers.c.triggered_at >= since, triggers.c.evidence == _FLAG)
        .group_by(triggers.c.account)
    )
