"""Open snapshots: read whole, and written in proportion to what changed."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, Text, cast, func, literal, select, update

from exporter.history.diff import Changes, OpenSnapshots
from exporter.history.head import Head
from exporter.history.schema import Instant, polls, to_text
from exporter.history.schema import order_group_snapshots as snapshots
from exporter.history.types import among
from exporter.model import OrderGroup

if TYPE_CHECKING:
    from exporter.database.postgres_copy import Kind

_TWICE = 2  # the default, which needs no query: the head names the poll before this one

# If the clock was set back, a poll may begin before the observations that precede it.
_CLOCK_SET_BACK = timedelta(days=1)

_OPEN = snapshots.c.valid_to.is_(None)


def read_open(connection: Connection, account: str) -> OpenSnapshots:
    """Read the open snapshots of an account."""
    rows = connection.execute(
        select(
            snapshots.c.order_group_id,
            snapshots.c.is_auto_cancel_enabled,
            cast(snapshots.c.contracts_limit, Text),
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
    return OpenSnapshots(groups=groups, missing=missing)


def confirmed_since(
    connection: Connection, head: Head, known: OpenSnapshots, confirm_removal: int
) -> datetime | None:
    """Return the instant since which a group must be missing for this miss to confirm its removal.

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
    # This selects, of the polls before this one, the one that must have been the first to miss the
    # group. `prune` keeps the polls that are counted here. They are counted by time, because
    # several Postgres nodes do not assign ids in order. Polls before the first miss saw the group,
    # so reaching one of them means the same as running out of polls; old ones need not be read.
    first_miss = min(known.missing.values())
    earlier = (
        select(polls.c.observed_at)
        .where(
            polls.c.account == head.account,
            polls.c.started_at >= first_miss - _CLOCK_SET_BACK,
            polls.c.outcome == "ok",
            polls.c.observed_at >= first_miss,
            polls.c.observed_at <= head.observed_at,
        )
        .order_by(polls.c.observed_at.desc())
        .limit(1)
        .offset(confirm_removal - 2)
    )
    first = connection.execute(earlier).scalar()
    # With fewer polls, no group can have been missed often enough.
    return first or datetime.min.replace(tzinfo=UTC)


def write(
    connection: Connection,
    head: Head,
    changes: Changes,
    *,
    observed_at: datetime,
    poll_id: int,
) -> None:
    """Write changes into the snapshots of an account.

    Args:
        connection: in the transaction that advances `head`.
        head: before this poll: its observation was the last to see what is not seen any more.
        changes: between the open snapshots and the observation.
        observed_at: the instant of this observation.
        poll_id: the poll that made it.
    """
    last_seen = {
        "last_seen_at": func.coalesce(snapshots.c.last_seen_at, literal(head.observed_at, Instant)),
        "last_poll_id": func.coalesce(snapshots.c.last_poll_id, head.last_poll_id),
    }
    _update(
        connection,
        head.account,
        [group.id for group in changes.changed],
        valid_to=observed_at,
        end_reason="changed",
        missing_since=None,
        **last_seen,
    )
    _update(
        connection,
        head.account,
        changes.removed,
        # The removal happened when the first poll missed the group, not when another confirmed it.
        valid_to=func.coalesce(snapshots.c.missing_since, literal(observed_at, Instant)),
        end_reason="removed",
        missing_since=None,
        **last_seen,
    )
    _update(connection, head.account, changes.missed, missing_since=observed_at, **last_seen)
    _update(
        connection,
        head.account,
        changes.returned,
        missing_since=None,
        last_seen_at=None,
        last_poll_id=None,
    )
    begun = {
        "changed": changes.changed,
        "found" if head.observed_at is None else "appeared": changes.added,
    }
    shared = (head.account, observed_at, head.observed_at, poll_id)
    opened = [((*shared, reason), groups) for reason, groups in begun.items() if groups]
    if opened:
        insert = _insert_on_sqlite if connection.dialect.name == "sqlite" else _insert_on_postgres
        insert(connection, opened)


def _update(connection: Connection, account: str, group_ids: Sequence[str], **values: Any) -> None:
    """Update the open snapshots of these groups, in one statement."""
    if not group_ids:
        return
    is_among = among(connection, snapshots.c.order_group_id, group_ids)
    connection.execute(
        update(snapshots).where(snapshots.c.account == account, _OPEN, is_among).values(values)
    )


# Inserting bypasses SQLAlchemy, whose handling of each parameter takes longer than the databases
# do: a first poll may open 100,000 snapshots. Each way takes lists of groups, each with the values
# that all of its snapshots share.
_Opened = Sequence[tuple[tuple[str, datetime, datetime | None, int, str], Sequence[OrderGroup]]]
_SHARED: "dict[str, Kind]" = {
    "account": "text",
    "valid_from": "timestamptz",
    "not_before": "timestamptz",
    "first_poll_id": "bigint",
    "begin_reason": "text",
}
_OWN: "dict[str, Kind]" = {
    "order_group_id": "text",
    "is_auto_cancel_enabled": "boolean",
    "contracts_limit": "numeric",
    "exchange_index": "bigint",
    "extra": "json",
}

_COPY_BLOCK = 200  # rows: about 30 kB

# One statement that reads many rows from JSON takes half as long as one statement for each row.
_JSON_BLOCK = 2_000  # rows: about 200 kB of JSON
_FROM_JSON = (
    f"INSERT INTO order_group_snapshots ({', '.join(_SHARED | _OWN)}) SELECT ?, ?, ?, ?, ?, "
    + ", ".join(f"json_extract(value, '$[{number}]')" for number in range(len(_OWN)))
    + " FROM json_each(?)"
)


def _insert_on_sqlite(connection: Connection, opened: _Opened) -> None:
    for (account, valid_from, not_before, *others), groups in opened:
        since = None if not_before is None else to_text(not_before)
        shared = (account, to_text(valid_from), since, *others)
        for some in _blocks(groups, _JSON_BLOCK):
            rows = msgspec.json.encode(list(zip(*_columns(some), strict=True))).decode()
            connection.exec_driver_sql(_FROM_JSON, (*shared, rows))


def _insert_on_postgres(connection: Connection, opened: _Opened) -> None:
    from exporter.database.postgres_copy import copy_in  # noqa: PLC0415  # psycopg is an extra's

    copy_in(
        connection,
        "order_group_snapshots",
        _SHARED | _OWN,
        (
            (shared, _columns(some))
            for shared, groups in opened
            for some in _blocks(groups, _COPY_BLOCK)
        ),
    )


def _blocks(groups: Sequence[OrderGroup], size: int) -> Iterator[Sequence[OrderGroup]]:
    return (groups[start : start + size] for start in range(0, len(groups), size))


def _columns(groups: Sequence[OrderGroup]) -> tuple[list[Any], ...]:
    """Return the values of the columns in `_OWN`."""
    return (
        [group.id for group in groups],
        [group.is_auto_cancel_enabled for group in groups],
        [group.contracts_limit for group in groups],
        [group.exchange_index for group in groups],
        [group.extra for group in groups],
    )
