"""The step that an observation makes: the poll's row, the head's next version, coverage.

If several exporters observe an account at the same time, exactly one makes the step.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from exporter.database.database import Database
from exporter.history.gap_cause import present_cause
from exporter.history.head import Head, unless_owned
from exporter.history.schema import accounts, coverage, gap_outcomes, polls
from exporter.model import COVERAGE_INTERVALS


def advance_at_once(
    database: Database, head: Head, poll: Mapping[str, Any], *, owner: str, interval: float
) -> bool:
    """Do all that `advance` does in one step, or do nothing if the case is an unusual one.

    Most polls see no change. On Postgres round trips then dominate: the step takes one, and a
    transaction takes five. On SQLite SQLAlchemy's own work dominates: the step needs the driver
    alone.

    Args:
        database: to write to.
        head: as it was read.
        poll: as for `advance`.
        owner: who polls.
        interval: seconds between polls of this account.

    Returns:
        Whether all of it is done. If not, nothing is: a gap ends, or the head has moved.

    Raises:
        DatabaseError: the database failed.
    """
    if _ends_gap(head, poll, interval):
        return False
    step = {**poll, **_step(head, poll, owner=owner), "since": head.coverage_started_at}
    if database.is_sqlite:
        return database.execute_together(_ON_SQLITE, step) is not None
    return database.execute_one(_on_postgres(), step) == (True,)


def advance(
    connection: Connection, head: Head, poll: Mapping[str, Any], *, owner: str, interval: float
) -> tuple[int, bool]:
    """Insert a poll; move the head from the version read, extend coverage, end the owner's claim.

    Args:
        connection: in a transaction.
        head: as it was read.
        poll: as `insert_poll` takes it; `observed_at` as `next_instant` gave it.
        owner: who polls.
        interval: seconds between polls of this account.

    Returns:
        The poll's id, and whether the head was still at that version; if not, nothing but the
        poll was written.
    """
    observed_at: datetime = poll["poll_observed_at"]
    ends_gap = _ends_gap(head, poll, interval)
    step = _step(head, poll, owner=owner)
    step["since"] = observed_at if ends_gap else head.coverage_started_at
    poll_id = insert_poll(connection, poll)
    if connection.execute(_ADVANCE, step | {"poll_id": poll_id}).first() is None:
        return poll_id, False
    if ends_gap:
        first = head.observed_at is None
        row = {
            "account": head.account,
            "started_at": observed_at,
            "ended_at": observed_at,
            "polls": 1,
            "gap_started_at": head.observed_at,
            "gap_cause": None if first else present_cause(connection, head.account),
        }
        connection.execute(insert(coverage), row)
    else:
        connection.execute(_EXTEND, step)
    connection.execute(_FORGET_OUTCOMES, step)
    return poll_id, True


def insert_poll(connection: Connection, poll: Mapping[str, Any]) -> int:
    """Insert a poll, given as `exporter.history.rows.row_of` gives it; return its id."""
    poll_id: int = connection.execute(_INSERT_POLL_FOR_ID, poll).scalar_one()
    return poll_id


def _ends_gap(head: Head, poll: Mapping[str, Any], interval: float) -> bool:
    if head.observed_at is None:
        return True
    gap: timedelta = poll["poll_observed_at"] - head.observed_at
    return gap > timedelta(seconds=COVERAGE_INTERVALS * interval)


def _step(head: Head, poll: Mapping[str, Any], *, owner: str) -> dict[str, Any]:
    return {
        "of": head.account,
        "from_version": head.version,
        "to_version": head.version + 1,
        "owner": owner,
        "seen_at": poll["poll_observed_at"],
        "seen_count": poll["poll_group_count"],
    }


# The statements are built once, because SQLAlchemy takes longer to build them than to run them. No
# parameter has the name of a column: inside a nested statement, SQLAlchemy would write it into each
# table that has such a column. SQLAlchemy insists on column names in VALUES, but not in SELECT.

_POLL = {column.name: column.type for column in polls.columns if column.name != "id"}
_PARAMETERS = [bindparam(f"poll_{name}", type_=kind) for name, kind in _POLL.items()]
_INSERT_POLL = insert(polls).from_select(list(_POLL), select(*_PARAMETERS))
_INSERT_POLL_FOR_ID = _INSERT_POLL.returning(polls.c.id)
_ADVANCE = (
    update(accounts)
    .where(accounts.c.account == bindparam("of"), accounts.c.version == bindparam("from_version"))
    .values(
        version=bindparam("to_version"),
        observed_at=bindparam("seen_at"),
        last_poll_id=bindparam("poll_id"),
        group_count=bindparam("seen_count"),
        coverage_started_at=bindparam("since"),
        failed_polls=0,
        refused_polls=0,
        claimed_until=unless_owned(),
    )
    .returning(accounts.c.account)
)
_EXTEND = (
    update(coverage)
    .where(coverage.c.account == bindparam("of"), coverage.c.started_at == bindparam("since"))
    .values(ended_at=bindparam("seen_at"), polls=coverage.c.polls + 1)
)
# Failed polls before this observation belong to no later gap, even if their time says otherwise: a
# wrong clock is what makes polls fail most often.
_FORGET_OUTCOMES = delete(gap_outcomes).where(gap_outcomes.c.account == bindparam("of"))

_ON_SQLITE = (
    _INSERT_POLL,
    _ADVANCE.values(last_poll_id=func.last_insert_rowid()),
    _EXTEND,
    _FORGET_OUTCOMES,
)


@cache
def _on_postgres() -> Executable:
    """Return one statement that does the same; SQLite has none that writes to several tables."""
    new = select(func.nextval(func.pg_get_serial_sequence("polls", "id")).label("id")).cte("new")
    advanced = _ADVANCE.values(last_poll_id=select(new.c.id).scalar_subquery()).cte("advanced")
    there = exists(select(advanced.c.account))
    poll = insert(polls).from_select(["id", *_POLL], select(new.c.id, *_PARAMETERS).where(there))
    return select(there).add_cte(
        poll.cte("poll"),
        _EXTEND.where(there).cte("extended"),
        _FORGET_OUTCOMES.where(there).cte("forgotten"),
    )
