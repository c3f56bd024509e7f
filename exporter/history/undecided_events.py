"""Events of groups that may belong to another subaccount: kept aside until a poll tells.

The exchange sends an account that is bound to a subaccount the events of all subaccounts, and does
not say whose they are. The account's polls do: a group that one of them has seen is the account's,
and one that existed while a poll did not see it is another's. Until then its events wait here,
where nothing that people read shows them, and the account's stream coverage ends before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from exporter.history import events
from exporter.history.schema import (
    Instant,
    groups_of_others,
    order_group_events,
    polls,
    stream_coverage,
    undecided_events,
)
from exporter.history.schema import order_group_snapshots as snapshots
from exporter.history.snapshots import among
from exporter.model import OrderGroupEvent

LISTING_LAG = timedelta(seconds=5)
"""A group may be missing from the list for so long after it was created."""

_TICK = timedelta(microseconds=1)
_waiting = undecided_events


@dataclass(frozen=True, slots=True)
class Undecidable:
    """Events of which nobody can ever tell whose they are, for no poll saw their group in time.

    Attributes:
        first, last: the earliest and the latest instant at which one of them happened.
    """

    first: datetime
    last: datetime


def own(
    connection: Connection, account: str, heard: Sequence[OrderGroupEvent]
) -> tuple[list[OrderGroupEvent], list[OrderGroupEvent]]:
    """Return the account's own events, and those of groups that are undecided.

    Args:
        connection: in a transaction that locks the account, so that no poll decides meanwhile.
        account: bound to a subaccount.
        heard: events of all subaccounts.
    """
    ids = sorted({event.order_group_id for event in heard})
    ours = _ids_among(connection, snapshots, account, ids)
    others = _ids_among(connection, groups_of_others, account, ids) - ours
    return (
        [event for event in heard if event.order_group_id in ours],
        [event for event in heard if event.order_group_id not in ours | others],
    )


def _ids_among(connection: Connection, table: Table, account: str, ids: Sequence[str]) -> set[str]:
    if not ids:
        return set()
    column = table.c.order_group_id
    found = select(column).where(table.c.account == account, among(connection, column, ids))
    return set(connection.execute(found.distinct()).scalars())


def adopt(connection: Connection, account: str) -> None:
    """Record what waits of groups that the account's polls have seen by now.

    Args:
        connection: in a transaction that locks the account.
        account: any.
    """
    parameters = {"of": account}
    if connection.execute(_ARE_OURS, parameters).first() is None:
        return
    for statement in (_COUNT, _TAKE_OVER, _FORGET):
        connection.execute(statement, parameters)


def decide(connection: Connection, account: str) -> list[Undecidable]:
    """Drop what waits of groups that polls have shown to be others'.

    Args:
        connection: in a transaction that locks the account, after `adopt`.
        account: bound to a subaccount.

    Returns:
        Of groups that were deleted before a poll could tell, the instants; their events are
        dropped too.
    """
    undecidable = []
    rows = connection.execute(_GROUPS, {"of": account, "deleted": "deleted"}).all()
    for group_id, heard_from, heard_to, first, last, deleted_at in rows:
        seen_without_it = _polled_between(connection, account, heard_from + LISTING_LAG, deleted_at)
        if not seen_without_it:
            if deleted_at is None or not _polled_between(connection, account, heard_to, None):
                continue  # a poll may still tell
            undecidable.append(Undecidable(min(first, heard_from), max(last, heard_to)))
        else:
            connection.execute(
                insert(groups_of_others), {"account": account, "order_group_id": group_id}
            )
        connection.execute(
            delete(_waiting).where(
                _waiting.c.account == account, _waiting.c.order_group_id == group_id
            )
        )
    return sorted(undecidable, key=lambda each: each.first)


def _polled_between(
    connection: Connection, account: str, since: datetime, until: datetime | None
) -> bool:
    """Whether a successful poll began and ended in a span."""
    found = select(polls.c.id).where(
        polls.c.account == account, polls.c.started_at >= since, polls.c.outcome == "ok"
    )
    if until is not None:
        found = found.where(polls.c.observed_at <= until)
    return connection.execute(found.limit(1)).first() is not None


def wait_since(connection: Connection, account: str) -> datetime | None:
    """Return the instant of the earliest event that is undecided; None if there is none."""
    first = connection.execute(
        select(func.min(_waiting.c.received_at, type_=Instant), _FIRST).where(
            _waiting.c.account == account
        )
    ).one()
    return min((at for at in first if at is not None), default=None)


def keep(connection: Connection, account: str, heard: Sequence[OrderGroupEvent]) -> None:
    """Keep events until a poll tells whose they are, in a transaction that locks the account."""
    events.add(connection, _waiting, account, heard)


_FIRST = func.min(_waiting.c.occurred_at, type_=Instant)
_is_ours = exists().where(
    snapshots.c.account == _waiting.c.account,
    snapshots.c.order_group_id == _waiting.c.order_group_id,
)
_mine = (_waiting.c.account == bindparam("of"), _is_ours)
_ARE_OURS = select(_waiting.c.order_group_id).where(*_mine).limit(1)
_TAKE_OVER = insert(order_group_events).from_select(
    ["account", *events.COLUMNS],
    select(_waiting.c.account, *(_waiting.c[name] for name in events.COLUMNS)).where(*_mine),
)
_FORGET = delete(_waiting).where(*_mine)
_COUNT = (
    update(stream_coverage)
    .where(stream_coverage.c.account == bindparam("of"), stream_coverage.c.is_latest)
    .values(
        events=stream_coverage.c.events
        + select(func.count()).select_from(_waiting).where(*_mine).scalar_subquery()
    )
)
_GROUPS = (
    select(
        _waiting.c.order_group_id,
        func.min(_waiting.c.received_at, type_=Instant),
        func.max(_waiting.c.received_at, type_=Instant),
        _FIRST,
        func.max(_waiting.c.occurred_at, type_=Instant),
        func.min(
            case((_waiting.c.event_type == bindparam("deleted"), _waiting.c.received_at)),
            type_=Instant,
        ),
    )
    .where(_waiting.c.account == bindparam("of"))
    .group_by(_waiting.c.order_group_id)
)
