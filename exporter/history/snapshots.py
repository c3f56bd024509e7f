"""Open snapshots: read whole, and written in proportion to what changed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Text,
    Update,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    update,
)

from exporter.history.diff import Difference, Known
from exporter.history.head import Head
from exporter.history.schema import Instant, polls
from exporter.history.schema import order_group_snapshots as snapshots
from exporter.model import OrderGroup

_TWICE = 2  # the default: the poll before this one is the head's, and needs no query

_OPEN = snapshots.c.valid_to.is_(None)


def read_open(connection: Connection, account: str) -> Known:
    """Read the open snapshots of an account."""
    rows = connection.execute(
        select(
            snapshots.c.order_group_id,
            snapshots.c.is_auto_cancel_enabled,
            snapshots.c.contracts_limit,
            snapshots.c.exchange_index,
            cast(snapshots.c.extra, Text),
            snapshots.c.missing_since,
        ).where(snapshots.c.account == account, _OPEN)
    )
    groups = {}
    missing = {}
    for group_id, enabled, limit, index, extra, missing_since in rows:
        groups[group_id] = OrderGroup(group_id, enabled, limit, index, extra)
        if missing_since is not None:
            missing[group_id] = missing_since
    return Known(groups=groups, missing=missing)


def confirmed_since(
    connection: Connection, head: Head, known: Known, confirm_removal: int
) -> datetime | None:
    """Give the instant since which a group must be missing for the present miss to confirm it.

    Args:
        connection: in the transaction of the poll that observes now.
        head: before this poll.
        known: the open snapshots before this poll.
        confirm_removal: polls in a row that must miss a group, the present one included.

    Returns:
        None if one miss is enough.
    """
    if confirm_removal == 1:
        return None
    if confirm_removal == _TWICE or not known.missing:
        return head.observed_at
    # Of the polls before this one, the one that must have been the first to miss. `prune` spares
    # the polls that are counted here.
    earlier = (
        select(polls.c.observed_at)
        .where(
            polls.c.account == head.account,
            polls.c.outcome == "ok",
            polls.c.id <= head.last_poll_id,
        )
        # Not by `started_at`, which a clock that was set back puts out of order: a poll gets its
        # id after the head before it was written.
        .order_by(polls.c.id.desc())
        .limit(1)
        .offset(confirm_removal - 2)
    )
    first = connection.execute(earlier).scalar()
    # With fewer polls than that, no group can have been missed often enough.
    return first or datetime.min.replace(tzinfo=UTC)


def write(
    connection: Connection,
    head: Head,
    difference: Difference,
    *,
    observed_at: datetime,
    poll_id: int,
) -> None:
    """Write a difference into the snapshots of an account.

    Args:
        connection: in the transaction that advances `head`.
        head: before this poll: its observation was the last to see what is not seen any more.
        difference: from what is known to what was observed.
        observed_at: the instant of this observation.
        poll_id: the poll that made it.
    """
    account = head.account
    mine = (
        snapshots.c.account == account,
        snapshots.c.order_group_id == bindparam("id"),
        _OPEN,
    )
    last_seen = {
        "last_seen_at": func.coalesce(snapshots.c.last_seen_at, literal(head.observed_at, Instant)),
        "last_poll_id": func.coalesce(snapshots.c.last_poll_id, head.last_poll_id),
    }
    _for_each(
        connection,
        update(snapshots)
        .where(*mine)
        .values(valid_to=observed_at, end_reason="changed", missing_since=None, **last_seen),
        [group.id for group in difference.changed],
    )
    _for_each(
        connection,
        # The removal happened when the first poll missed the group, not when another confirmed it.
        update(snapshots)
        .where(*mine)
        .values(
            valid_to=func.coalesce(snapshots.c.missing_since, literal(observed_at, Instant)),
            end_reason="removed",
            missing_since=None,
            **last_seen,
        ),
        difference.removed,
    )
    _for_each(
        connection,
        update(snapshots).where(*mine).values(missing_since=observed_at, **last_seen),
        difference.missed,
    )
    _for_each(
        connection,
        update(snapshots)
        .where(*mine)
        .values(missing_since=None, last_seen_at=None, last_poll_id=None),
        difference.returned,
    )
    opened = [
        {
            "account": account,
            "order_group_id": group.id,
            "valid_from": observed_at,
            "is_auto_cancel_enabled": group.is_auto_cancel_enabled,
            "contracts_limit": group.contracts_limit,
            "exchange_index": group.exchange_index,
            "extra": group.extra,
            "not_before": head.observed_at,
            "first_poll_id": poll_id,
        }
        for group in (*difference.changed, *difference.added)
    ]
    if opened:
        connection.execute(insert(snapshots), opened)


def _for_each(connection: Connection, statement: Update, group_ids: Sequence[str]) -> None:
    if group_ids:
        parameters: list[dict[str, Any]] = [{"id": group_id} for group_id in group_ids]
        connection.execute(statement, parameters)
