"""Events of groups that may belong to another subaccount: they wait until a poll decides.

To an account that is bound to a subaccount, the exchange sends the events of all subaccounts
without naming them. The account's polls decide: a group that one of them saw is the account's, and
a group that existed while a poll did not see it is another's. Until then its events wait here,
where no view shows them, and the account's stream coverage does not advance.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

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
from exporter.history.head import Head
from exporter.history.schema import (
    Instant,
    groups_of_others,
    order_group_events,
    polls,
    stream_coverage,
    undecided_events,
)
from exporter.history.schema import order_group_snapshots as snapshots
from exporter.history.types import among
from exporter.model import OrderGroupEvent

LISTING_LAG = timedelta(seconds=5)
"""A group may be missing from the list for so long after it was created."""

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)

_waiting = undecided_events


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


def decide(connection: Connection, account: str) -> datetime | None:
    """Drop what waits of groups that polls have shown to be others'.

    Args:
        connection: in a transaction that locks the account, after `adopt`.
        account: bound to a subaccount.

    Returns:
        When the last undecidable event was heard; None if there are none. The group of such an
        event was deleted before a poll could see it, so its owner stays unknown. These events are
        dropped too.
    """
    undecidable = None
    rows = connection.execute(_GROUPS, {"of": account, "deleted": "deleted"}).all()
    for group_id, first, last, deleted_at, kept_first, kept_last in rows:
        if _polled(connection, account, first + LISTING_LAG, deleted_at, after=kept_first):
            connection.execute(
                insert(groups_of_others), {"account": account, "order_group_id": group_id}
            )
        elif deleted_at is not None and _polled(connection, account, last, None, after=kept_last):
            undecidable = last if undecidable is None else max(undecidable, last)
        else:
            continue  # a poll may still tell
        connection.execute(
            delete(_waiting).where(
                _waiting.c.account == account, _waiting.c.order_group_id == group_id
            )
        )
    return undecidable


def _polled(
    connection: Connection,
    account: str,
    since: datetime,
    until: datetime | None,
    *,
    after: datetime,
) -> bool:
    """Return whether a poll began and succeeded in a span, and observed after an instant.

    Observations are ordered whatever the clock does: one from before the clock was set back does
    not count, although its date is later.
    """
    found = select(polls.c.id).where(
        polls.c.account == account, polls.c.started_at >= since, polls.c.observed_at > after
    )
    if until is not None:
        found = found.where(polls.c.observed_at <= until)
    return connection.execute(found.limit(1)).first() is not None


def are_waiting(connection: Connection, account: str) -> bool:
    """Return whether events of the account are undecided."""
    waiting = select(_waiting.c.order_group_id).where(_waiting.c.account == account).limit(1)
    return connection.execute(waiting).first() is not None


def keep(connection: Connection, head: Head, heard: Sequence[OrderGroupEvent]) -> None:
    """Keep events until a poll tells whose they are.

    Args:
        connection: in a transaction that locks the account.
        head: of the account.
        heard: as `own` gave them.
    """
    if events.add(connection, _waiting, head.account, heard):
        connection.execute(
            update(_waiting)
            .where(_waiting.c.account == head.account, _waiting.c.kept_after.is_(None))
            .values(kept_after=head.observed_at or _BEFORE_ALL)
        )


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
        func.min(
            case((_waiting.c.event_type == bindparam("deleted"), _waiting.c.received_at)),
            type_=Instant,
        ),
        func.min(_waiting.c.kept_after, type_=Instant),
        func.max(_waiting.c.kept_after, type_=Instant),
    )
    .where(_waiting.c.account == bindparam("of"))
    .group_by(_waiting.c.order_group_id)
)
