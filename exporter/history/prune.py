"""Delete old rows of `polls`, except for those that are still needed.

Snapshots, coverage and their views do not depend on `polls`. Only two readers do: the latest state
of an account (`exporter.reading.status`) and pending removals
(`exporter.history.snapshots.confirmed_since`).
"""

import time
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, UnaryExpression, delete, func, or_, select, tuple_
from sqlalchemy.sql.operators import custom_op

from exporter.database.database import Database, set_statement_timeout
from exporter.history.schema import accounts, order_group_snapshots, polls

_BATCH = 10_000  # rows; these keep SQLite's only writer busy for about a tenth of a second
# Seconds between two batches, in which a process that waits for SQLite's lock can take it.
_PAUSE = 0.1
_COUNT_SECONDS = 60.0  # on Postgres, for the polls of one account


def prune(database: Database, *, before: datetime, dry_run: bool, batch: int = _BATCH) -> int:
    """Delete the polls that began before an instant, in batches, while exporters go on polling.

    For each account, this keeps the latest poll, the latest successful one, and, while a removal
    waits to be confirmed, the successful ones that have missed the group.

    Args:
        database: with the current schema.
        before: an aware instant.
        dry_run: only count.
        batch: rows to delete in one transaction.

    Returns:
        How many rows were deleted, or would be.

    Raises:
        DatabaseError: the database failed; what earlier transactions deleted stays deleted.
    """
    with database.transaction() as connection:
        names = connection.scalars(select(accounts.c.account)).all()
    total = 0
    for account in names:
        superfluous = _superfluous(account, before)
        if dry_run:
            with database.transaction() as connection:
                set_statement_timeout(connection, seconds=_COUNT_SECONDS)
                count = select(func.count()).select_from(polls).where(*superfluous)
                total += connection.execute(count).scalar_one()
            continue
        statement = _delete_some(account, superfluous, batch, on_sqlite=database.is_sqlite)
        deleted = batch
        while deleted == batch:
            with database.transaction() as connection:
                set_statement_timeout(connection, rows=batch)
                deleted = connection.execute(statement).rowcount
            total += deleted
            if database.is_sqlite and deleted == batch:
                time.sleep(_PAUSE)
    return total


def _delete_some(
    account: str, superfluous: tuple[ColumnElement[Any], ...], batch: int, *, on_sqlite: bool
) -> Delete:
    """Delete a batch of the polls that are superfluous when the statement runs.

    Each batch evaluates the condition again, because a poll in between may have missed a group.
    """
    if on_sqlite:
        some = select(polls.c.id).where(*superfluous).limit(batch)
        # The plus keeps SQLite from using an index on the account, so it finds each row by its id.
        mine = UnaryExpression(polls.c.account, operator=custom_op("+")) == account
        return delete(polls).where(mine, polls.c.id.in_(some))
    keys = select(polls.c.started_at, polls.c.id).where(*superfluous).limit(batch)
    return delete(polls).where(
        polls.c.account == account, tuple_(polls.c.started_at, polls.c.id).in_(keys)
    )


def _superfluous(account: str, before: datetime) -> tuple[ColumnElement[Any], ...]:
    """Return conditions on `polls`: the row is the account's, is old, and is not needed."""
    others = polls.alias("others")
    latest = (
        select(others.c.id)
        .where(others.c.account == account)
        .order_by(others.c.started_at.desc(), others.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    latest_successful = (
        select(func.coalesce(accounts.c.last_poll_id, 0))
        .where(accounts.c.account == account)
        .scalar_subquery()
    )
    # Earlier polls need not be counted, because they saw the group: reaching one of them means the
    # same as running out of polls, that the removal is not confirmed.
    first_miss = (
        select(func.min(order_group_snapshots.c.missing_since))
        .where(
            order_group_snapshots.c.account == account,
            order_group_snapshots.c.valid_to.is_(None),
        )
        .scalar_subquery()
    )
    return (
        polls.c.account == account,
        polls.c.started_at < before,
        polls.c.id != latest,
        polls.c.id != latest_successful,
        or_(
            polls.c.observed_at.is_(None),
            first_miss.is_(None),
            polls.c.observed_at < first_miss,
        ),
    )
