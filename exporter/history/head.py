"""An account's head: its row in `accounts`, which polls claim, compare and swap.

A poll reads the head before it asks the exchange, and its transaction advances the head from the
version that it read: of any number of exporters, on any number of hosts, exactly one writes each
step, and no lock is held while the exchange is asked.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
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


@dataclass(frozen=True, slots=True)
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
_NOTHING_YET: dict[str, Any] = {
    "account": bindparam("account"),
    "version": 0,
    "failed_polls": 0,
    "refused_polls": 0,
}


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
    row = connection.execute(
        _claim(connection.dialect.name),
        {
            "account": account,
            "owner": owner,
            "now": now,
            "until": now + timedelta(seconds=lease),
            # A claim or poll in the future is a clock's error, and binds nobody.
            "latest": now + timedelta(seconds=_LONGEST_LEASE),
            "polled_before": now - timedelta(seconds=unless_polled_within),
            "refused_before": now - timedelta(seconds=unless_refused_within),
        },
    ).one_or_none()
    return None if row is None else Head(*row)


@cache
def _claim(dialect: str) -> Executable:
    def rested(latest: str) -> ColumnElement[bool]:
        return or_(
            accounts.c.polled_at.is_(None),
            accounts.c.polled_at <= bindparam(latest),
            accounts.c.polled_at > bindparam("now"),
        )

    unclaimed = or_(
        accounts.c.claimed_until.is_(None),
        accounts.c.claimed_until <= bindparam("now"),
        accounts.c.claimed_until > bindparam("latest"),
    )
    mine = accounts.c.claimed_by == bindparam("owner")
    free = and_(
        or_(mine, and_(unclaimed, rested("polled_before"))),
        or_(accounts.c.refused_polls < PATIENCE, rested("refused_before")),
    )
    taken: dict[str, Any] = {
        "polled_at": bindparam("now"),
        "claimed_by": bindparam("owner"),
        "claimed_until": bindparam("until"),
    }
    statement: Executable = (
        _insert(dialect, accounts)
        .values(_NOTHING_YET | taken)
        .on_conflict_do_update(index_elements=["account"], set_=taken, where=free)
        .returning(*_COLUMNS)
    )
    return statement


def lock(connection: Connection, account: str) -> Head:
    """Read an account's head, which nobody else advances until this transaction ends.

    A row is made for the account if it has none: its first polls may have waited in the spool.
    """
    dialect = connection.dialect.name
    connection.execute(_make_row(dialect), {"account": account})
    return Head(*connection.execute(_LOCK, {"account": account}).one())


@cache
def _make_row(dialect: str) -> Executable:
    statement: Executable = _insert(dialect, accounts).values(_NOTHING_YET).on_conflict_do_nothing()
    return statement


_LOCK = select(*_COLUMNS).where(accounts.c.account == bindparam("account")).with_for_update()


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
    started_at = observed_at if new_stretch else head.coverage_started_at
    swapped = connection.execute(
        _ADVANCE,
        {
            "of": head.account,
            "from_version": head.version,
            "owner": owner,
            "version": head.version + 1,
            "observed_at": observed_at,
            "last_poll_id": poll_id,
            "group_count": group_count,
            "coverage_started_at": started_at,
        },
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
        connection.execute(insert(coverage), row)
    else:
        connection.execute(
            _EXTEND, {"of": head.account, "since": started_at, "ended_at": observed_at}
        )
    # They belong to no later gap, whatever the clock said when they were counted: it is a wrong
    # clock above all that makes polls fail.
    connection.execute(_FORGET_OUTCOMES, {"of": head.account})
    return True


def remember_digest(connection: Connection, account: str, digest: str | None) -> None:
    """Note the digest of the latest answer; None if the same bytes again may change something."""
    connection.execute(_REMEMBER_DIGEST, {"of": account, "digest": digest})


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
            claimed_until=_unless_owned(),
        )
        .returning(accounts.c.observed_at),
        {"owner": owner},
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
        _insert(connection.dialect.name, gap_outcomes)
        .values(account=account, outcome=outcome, polls=polls, last_started_at=last_started_at)
        .on_conflict_do_update(
            index_elements=["account", "outcome"],
            set_={
                "polls": gap_outcomes.c.polls + polls,
                "last_started_at": last_started_at,
            },
        )
    )


def _gap_cause(connection: Connection, head: Head) -> str | None:
    """The outcome that most polls since the last observation had, the latest of equals."""
    if head.observed_at is None:
        return None
    return connection.execute(_MAIN_OUTCOME, {"of": head.account}).scalar() or "not_running"


def _unless_owned() -> ColumnElement[Any]:
    """The claim as it is, or none if it is the owner's."""
    mine = accounts.c.claimed_by == bindparam("owner")
    return case((mine, null()), else_=accounts.c.claimed_until)


def _insert(dialect: str, table: Table) -> Any:
    """Begin an INSERT … ON CONFLICT, which both databases have, each in its own module."""
    return sqlite_insert(table) if dialect == "sqlite" else postgres_insert(table)


# Statements are put together once: doing so takes SQLAlchemy longer than running them.

_ADVANCE = (
    update(accounts)
    .where(accounts.c.account == bindparam("of"), accounts.c.version == bindparam("from_version"))
    .values(
        version=bindparam("version"),
        observed_at=bindparam("observed_at"),
        last_poll_id=bindparam("last_poll_id"),
        group_count=bindparam("group_count"),
        coverage_started_at=bindparam("coverage_started_at"),
        failed_polls=0,
        refused_polls=0,
        claimed_until=_unless_owned(),
    )
)
_EXTEND = (
    update(coverage)
    .where(coverage.c.account == bindparam("of"), coverage.c.started_at == bindparam("since"))
    .values(ended_at=bindparam("ended_at"), polls=coverage.c.polls + 1)
)
_FORGET_OUTCOMES = delete(gap_outcomes).where(gap_outcomes.c.account == bindparam("of"))
_REMEMBER_DIGEST = (
    update(accounts).where(accounts.c.account == bindparam("of")).values(digest=bindparam("digest"))
)
_MAIN_OUTCOME = (
    select(gap_outcomes.c.outcome)
    .where(gap_outcomes.c.account == bindparam("of"))
    .order_by(gap_outcomes.c.polls.desc(), gap_outcomes.c.last_started_at.desc())
    .limit(1)
)
