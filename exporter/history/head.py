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
    false,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from exporter.causes import NOT_KEPT
from exporter.database.database import Database
from exporter.history.gap_cause import explain_late
from exporter.history.schema import Instant, accounts, gap_outcomes

UNAUTHORIZED_THRESHOLD = 3
"""So many polls in a row may be refused before a daemon asks less often."""

_SAME_TICK = 1.0  # seconds that exporters may differ in coming to a tick
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
    database: Database,
    account: str,
    *,
    owner: str,
    now: datetime,
    lease: float,
    unless_polled_within: float = 0.0,
    unless_refused_within: float = 0.0,
    unless_resting: bool = False,
) -> Head | None:
    """Read an account's head, and tell other exporters to leave the account alone for a while.

    This spares the exchange needless requests. What is written never rests on it.

    Args:
        database: with the schema.
        account: by its name; a row is made for it if it has none.
        owner: who claims.
        now: the present instant.
        lease: seconds until others may take the account, should the owner not come back.
        unless_polled_within: seconds; refuse if another exporter began a poll so recently.
        unless_refused_within: seconds; refuse if any exporter began a poll so recently, and the
            exchange has refused the last `UNAUTHORIZED_THRESHOLD` of them.
        unless_resting: refuse if the exchange has asked any exporter for a pause that is not over.

    Returns:
        The head; None if another exporter is polling the account, or has just done so, or if the
        account is to be left alone.

    Raises:
        DatabaseError: the database failed.
    """
    latest = now + timedelta(seconds=_LONGEST_LEASE)
    row = database.execute_one(
        _claim(database.url.get_backend_name()),
        {
            "account": account,
            "owner": owner,
            "now": now,
            "until": now + timedelta(seconds=lease),
            # Of two at one tick, whoever asked its clock first may come to the database second.
            "soon": now + timedelta(seconds=min(unless_polled_within, _SAME_TICK)),
            # A claim or poll in the future is a clock's error, and binds nobody.
            "latest": latest,
            "polled_before": now - timedelta(seconds=unless_polled_within),
            "refused_before": now - timedelta(seconds=unless_refused_within),
            "rested_by": now if unless_resting else latest,
        },
        durable=False,  # nothing rests on it: a power cut may take it back
    )
    return None if row is None else Head(*row)


@cache
def _claim(dialect: str) -> Executable:
    def rested(latest: str, future: str) -> ColumnElement[bool]:
        return or_(
            accounts.c.polled_at.is_(None),
            accounts.c.polled_at <= bindparam(latest),
            accounts.c.polled_at > bindparam(future),
        )

    unclaimed = or_(
        accounts.c.claimed_until.is_(None),
        accounts.c.claimed_until <= bindparam("now"),
        accounts.c.claimed_until > bindparam("latest"),
    )
    mine = accounts.c.claimed_by == bindparam("owner")
    free = and_(
        or_(mine, and_(unclaimed, rested("polled_before", "soon"))),
        or_(accounts.c.refused_polls < UNAUTHORIZED_THRESHOLD, rested("refused_before", "now")),
        or_(
            accounts.c.rest_until.is_(None),
            accounts.c.rest_until <= bindparam("rested_by"),
            accounts.c.rest_until > bindparam("latest"),
        ),
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


def remember_digest(connection: Connection, account: str, digest: str | None) -> None:
    """Note the digest of the latest answer; None if the same bytes again may change something."""
    connection.execute(_REMEMBER_DIGEST, {"of": account, "digest": digest})


def count_failure(
    connection: Connection,
    account: str,
    *,
    owner: str,
    outcome: str,
    started_at: datetime,
    rest_until: datetime | None,
) -> None:
    """Note a poll that failed, for the cause of the gap that may come of it; end owner's claim.

    Args:
        connection: in a transaction.
        account: by its name.
        owner: who polled.
        outcome: of the poll.
        started_at: of the poll.
        rest_until: the end of the pause that the exchange asked for; None if it did not.
    """
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
            claimed_until=unless_owned(),
            rest_until=literal(rest_until, Instant),
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
        NOT_KEPT,
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
        # Another exporter has observed the account since.
        explain_late(connection, account, outcome, started_at=last_started_at)
        return
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


def unless_owned() -> ColumnElement[Any]:
    """Give the claim as it is, or none if it is that of the parameter `owner`."""
    mine = accounts.c.claimed_by == bindparam("owner")
    return case((mine, null()), else_=accounts.c.claimed_until)


def _insert(dialect: str, table: Table) -> Any:
    """Begin an INSERT … ON CONFLICT, which both databases have, each in its own module."""
    # The other's takes a tenth of the time that a start takes.
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415

    return postgresql.insert(table)


# Put together once: doing so takes SQLAlchemy longer than running it.
_REMEMBER_DIGEST = (
    update(accounts).where(accounts.c.account == bindparam("of")).values(digest=bindparam("digest"))
)
