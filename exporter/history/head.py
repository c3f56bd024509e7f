"""An account's head: its row in `accounts`, which polls claim (see `claim`), compare and swap.

A poll reads the head before it asks the exchange, and its transaction advances the head from the
version that it read: of any number of exporters, on any number of hosts, exactly one writes each
step, and no lock is held while the exchange is asked.
"""

from datetime import datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    bindparam,
    case,
    false,
    func,
    literal,
    null,
    select,
    update,
)

from exporter.causes import NOT_KEPT
from exporter.history.gap_cause import explain_late
from exporter.history.schema import Instant, accounts, gap_outcomes

_TICK = timedelta(microseconds=1)


class Head(msgspec.Struct, frozen=True):
    """The state of an account's history, as of one version of it.

    Attributes:
        version: counts the observations; what a successful poll compares and swaps.
        observed_at: the latest observation, at which its stretch of coverage ends.
        last_poll_id: the poll that made it.
        digest: of its response, if the same bytes again would mean that nothing changes.
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


HEAD_COLUMNS = [accounts.c[name] for name in Head.__struct_fields__]
NOTHING_YET: dict[str, Any] = {
    "account": bindparam("account"),
    "version": 0,
    "failed_polls": 0,
    "refused_polls": 0,
}


def lock(connection: Connection, account: str) -> Head:
    """Read an account's head, which nobody else advances until this transaction ends.

    A row is made for the account if it has none: its first polls may have waited in the spool.
    """
    dialect = connection.dialect.name
    connection.execute(_make_row(dialect), {"account": account})
    return Head(*connection.execute(_LOCK, {"account": account}).one())


@cache
def _make_row(dialect: str) -> Executable:
    statement: Executable = (
        insert_for(dialect, accounts).values(NOTHING_YET).on_conflict_do_nothing()
    )
    return statement


_LOCK = select(*HEAD_COLUMNS).where(accounts.c.account == bindparam("account")).with_for_update()


def next_instant(head: Head, observed_at: datetime) -> datetime:
    """Return the instant to record for an observation after `head`: later than the one before."""
    if head.observed_at is None:
        return observed_at
    return max(observed_at, head.observed_at + _TICK)


def remember_digest(connection: Connection, account: str, digest: str | None) -> None:
    """Note the digest of the latest response; None if the same bytes again may change something."""
    connection.execute(_REMEMBER_DIGEST, {"of": account, "digest": digest})


def count_failure(
    connection: Connection,
    account: str,
    *,
    owner: str,
    outcome: str,
    started_at: datetime,
    cooldown_until: datetime | None,
) -> None:
    """Note a poll that failed, for the cause of a possible gap, and end the owner's claim.

    Args:
        connection: in a transaction.
        account: by its name.
        owner: who polled.
        outcome: of the poll.
        started_at: of the poll.
        cooldown_until: the end of the pause that the exchange asked for; None if it did not.
    """
    failed, refused = accounts.c.failed_polls, accounts.c.refused_polls
    # A poll from the spool may come late, after the account has been observed again.
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
            cooldown_until=literal(cooldown_until, Instant),
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
    """Note polls that neither the database nor the spool could keep, as the cause of a gap."""
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
        # Another exporter has observed the account since these polls.
        explain_late(connection, account, outcome, started_at=last_started_at)
        return
    connection.execute(
        insert_for(connection.dialect.name, gap_outcomes)
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
    """Return the claim as it is, or null if it is that of the parameter `owner`."""
    mine = accounts.c.claimed_by == bindparam("owner")
    return case((mine, null()), else_=accounts.c.claimed_until)


def insert_for(dialect: str, table: Table) -> Any:
    """Return an INSERT … ON CONFLICT, for which SQLAlchemy has a module per database.

    Args:
        dialect: its name.
        table: to insert into.
    """
    # Importing both dialects would make each start a tenth slower.
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415  # as said

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415  # as said

    return postgresql.insert(table)


# The statement is built once, because SQLAlchemy takes longer to build it than to run it.
_REMEMBER_DIGEST = (
    update(accounts).where(accounts.c.account == bindparam("of")).values(digest=bindparam("digest"))
)
