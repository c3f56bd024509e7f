"""An account's head: its row in `accounts`, which polls claim, compare and swap.

A poll reads the head before it asks the exchange, and its transaction advances the head from the
version that it read: of any number of exporters, on any number of hosts, exactly one writes each
step, and no lock is held while the exchange is asked.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    delete,
    false,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from exporter.history.schema import accounts, coverage, gap_outcomes

COVERAGE_INTERVALS = 2.5
"""A poll extends the latest stretch of coverage if it comes within so many intervals of its end."""

PATIENCE = 3
"""So many polls in a row may be refused before a daemon asks less often."""

_LONGEST_LEASE = 600.0  # seconds: the longest deadline that the configuration allows
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The state of an account's history, as of one version of it.

    Attributes:
        version: counts the observations; what a successful poll compares and swaps.
        observed_at: the latest observation, at which its stretch of coverage ends.
        last_poll_id: the poll that made it.
        digest: of its answer, if the same bytes again would mean that nothing changes.
        group_count: groups that it saw.
        coverage_started_at: where the latest stretch of coverage begins.
        refused_polls: how many polls in a row, up to the latest, the exchange refused.
    """

    account: str
    version: int
    observed_at: datetime | None
    last_poll_id: int | None
    digest: str | None
    group_count: int | None
    coverage_started_at: datetime | None
    refused_polls: int


_COLUMNS = [accounts.c[name] for name in Head.__slots__]


def claim(
    connection: Connection,
    account: str,
    *,
    owner: str,
    now: datetime,
    lease: float,
    unless_polled_within: float = 0.0,
    unless_refused_within: float = 0.0,
) -> Head | None:
    """Read an account's head, and tell other exporters to leave the account alone for a while.

    This spares the exchange needless requests. What is written never rests on it.

    Args:
        connection: in a transaction.
        account: by its name; a row is made for it if it has none.
        owner: who claims.
        now: the present instant.
        lease: seconds until others may take the account, should the owner not come back.
        unless_polled_within: seconds; refuse if another exporter began a poll so recently.
        unless_refused_within: seconds; refuse if any exporter began a poll so recently, and the
            exchange has refused the last `PATIENCE` of them.

    Returns:
        The head; None if another exporter is polling the account, or has just done so.
    """
    # A claim or poll in the future is a clock's error, and binds nobody.
    unclaimed = or_(
        accounts.c.claimed_until.is_(None),
        accounts.c.claimed_until <= now,
        accounts.c.claimed_until > now + timedelta(seconds=_LONGEST_LEASE),
    )

    def rested(seconds: float) -> ColumnElement[bool]:
        return or_(
            accounts.c.polled_at.is_(None),
            accounts.c.polled_at <= now - timedelta(seconds=seconds),
            accounts.c.polled_at > now,
        )

    mine = accounts.c.claimed_by == owner
    free = or_(mine, and_(unclaimed, rested(unless_polled_within)))
    if unless_refused_within:
        free = and_(free, or_(accounts.c.refused_polls < PATIENCE, rested(unless_refused_within)))
    taken = {
        "polled_at": now,
        "claimed_by": owner,
        "claimed_until": now + timedelta(seconds=lease),
    }
    statement = (
        upsert(connection, accounts)
        .values(account=account, version=0, failed_polls=0, refused_polls=0, **taken)
        .on_conflict_do_update(
            index_elements=["account"],
            set_=taken,
            where=free,
        )
        .returning(*_COLUMNS)
    )
    return _head(connection.execute(statement).one_or_none())


def lock(connection: Connection, account: str) -> Head:
    """Read an account's head, which nobody else advances until this transaction ends.

    A row is made for the account if it has none: its first polls may have waited in the spool.
    """
    nothing_yet = {"account": account, "version": 0, "failed_polls": 0, "refused_polls": 0}
    connection.execute(upsert(connection, accounts).values(nothing_yet).on_conflict_do_nothing())
    statement = select(*_COLUMNS).where(accounts.c.account == account).with_for_update()
    return Head(**connection.execute(statement).one()._mapping)  # noqa: SLF001  # SQLAlchemy's public name


def next_instant(head: Head, observed_at: datetime) -> datetime:
    """Give the instant under which an observation follows `head`: later than the one before."""
    if head.observed_at is None:
        return observed_at
    return max(observed_at, head.observed_at + _TICK)


def advance(
    connection: Connection,
    head: Head,
    *,
    owner: str,
    poll_id: int,
    observed_at: datetime,
    group_count: int | None,
    interval: float,
) -> bool:
    """Move the head from the version that was read, extend coverage, and end the owner's claim.

    Args:
        connection: in a transaction.
        head: as it was read.
        owner: who polls.
        poll_id: the poll that observed.
        observed_at: from `next_instant`.
        group_count: groups seen.
        interval: seconds between polls of this account.

    Returns:
        Whether the head was still at that version; if not, nothing was written.
    """
    gap = None if head.observed_at is None else observed_at - head.observed_at
    new_stretch = gap is None or gap > timedelta(seconds=COVERAGE_INTERVALS * interval)
    values: dict[str, Any] = {
        "version": head.version + 1,
        "observed_at": observed_at,
        "last_poll_id": poll_id,
        "group_count": group_count,
        "coverage_started_at": observed_at if new_stretch else head.coverage_started_at,
        "failed_polls": 0,
        "refused_polls": 0,
        "claimed_until": _unless_owned(owner),
    }
    swapped = connection.execute(
        update(accounts)
        .where(accounts.c.account == head.account, accounts.c.version == head.version)
        .values(values)
    )
    if swapped.rowcount == 0:
        return False
    if new_stretch:
        row = {
            "account": head.account,
            "started_at": observed_at,
            "ended_at": observed_at,
            "polls": 1,
            "gap_started_at": head.observed_at,
            "gap_cause": _gap_cause(connection, head),
        }
        connection.execute(coverage.insert(), row)
    else:
        connection.execute(
            update(coverage)
            .where(
                coverage.c.account == head.account,
                coverage.c.started_at == head.coverage_started_at,
            )
            .values(ended_at=observed_at, polls=coverage.c.polls + 1)
        )
    # They belong to no later gap, whatever the clock said when they were counted: it is a wrong
    # clock above all that makes polls fail.
    connection.execute(delete(gap_outcomes).where(gap_outcomes.c.account == head.account))
    return True


def remember_digest(connection: Connection, account: str, digest: str | None) -> None:
    """Note the digest of the latest answer; None if the same bytes again may change something."""
    connection.execute(update(accounts).where(accounts.c.account == account).values(digest=digest))


def count_failure(
    connection: Connection, account: str, *, owner: str, outcome: str, started_at: datetime
) -> None:
    """Note a poll that failed, for the cause of the gap that may come of it; end owner's claim."""
    failed, refused = accounts.c.failed_polls, accounts.c.refused_polls
    # From the spool it may come late: then the account has been observed since.
    late = func.coalesce(accounts.c.observed_at >= started_at, false())
    observed_at = connection.execute(
        update(accounts)
        .where(accounts.c.account == account)
        .values(
            failed_polls=case((late, failed), else_=failed + 1),
            refused_polls=case(
                (late, refused), else_=refused + 1 if outcome == "unauthorized" else 0
            ),
            claimed_until=_unless_owned(owner),
        )
        .returning(accounts.c.observed_at)
    ).scalar_one()
    _note_outcome(
        connection, account, outcome, polls=1, last_started_at=started_at, observed_at=observed_at
    )


def note_loss(
    connection: Connection, account: str, *, polls: int, last_started_at: datetime
) -> None:
    """Note polls that could be kept nowhere, as the cause of the gap that comes of them."""
    observed_at = lock(connection, account).observed_at
    _note_outcome(
        connection,
        account,
        "not_kept",
        polls=polls,
        last_started_at=last_started_at,
        observed_at=observed_at,
    )


def _note_outcome(
    connection: Connection,
    account: str,
    outcome: str,
    *,
    polls: int,
    last_started_at: datetime,
    observed_at: datetime | None,
) -> None:
    if observed_at is not None and observed_at >= last_started_at:
        return  # Another exporter has observed the account since: no gap can hold these polls.
    connection.execute(
        upsert(connection, gap_outcomes)
        .values(account=account, outcome=outcome, polls=polls, last_started_at=last_started_at)
        .on_conflict_do_update(
            index_elements=["account", "outcome"],
            set_={
                "polls": gap_outcomes.c.polls + polls,
                "last_started_at": last_started_at,
            },
        )
    )


def upsert(connection: Connection, table: Any) -> Any:
    """Begin an INSERT … ON CONFLICT, which both databases have, each in its own module."""
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(table)


def _gap_cause(connection: Connection, head: Head) -> str | None:
    """The outcome that most polls since the last observation had, the latest of equals."""
    if head.observed_at is None:
        return None
    cause = connection.execute(
        select(gap_outcomes.c.outcome)
        .where(gap_outcomes.c.account == head.account)
        .order_by(gap_outcomes.c.polls.desc(), gap_outcomes.c.last_started_at.desc())
        .limit(1)
    ).scalar()
    return cause or "not_running"


def _unless_owned(owner: str) -> ColumnElement[Any]:
    """The claim as it is, or none if it is the owner's."""
    return case((accounts.c.claimed_by == owner, null()), else_=accounts.c.claimed_until)


def _head(row: Row[Any] | None) -> Head | None:
    return None if row is None else Head(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
