"""Correct the cause of a gap when a poll becomes known after its gap has ended.

This happens when a poll waits in the spool of an exporter that is cut off from the database, while
another exporter observes the account and ends the gap. `head` counts the polls known by then.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select, update

from exporter.causes import NOT_KEPT, NOT_RUNNING
from exporter.history.schema import coverage, gap_outcomes, polls


def explain_late(
    connection: Connection, account: str, outcome: str, *, started_at: datetime
) -> None:
    """Count a poll that becomes known only now for the cause of the gap in which it began, if any.

    Only polls that are recorded in the gap are counted. How many were pruned or lost is unknown,
    so a cause that they alone explain stays as it is.

    Args:
        connection: in the transaction that records the poll, after that.
        account: whose poll.
        outcome: of the poll, or `NOT_KEPT`, of which there is no record.
        started_at: of the poll.
    """
    gap = connection.execute(
        select(coverage.c.started_at, coverage.c.gap_started_at, coverage.c.gap_cause)
        .where(coverage.c.account == account, coverage.c.started_at > started_at)
        .order_by(coverage.c.started_at)
        .limit(1)
    ).first()
    if gap is None or gap.gap_started_at is None or gap.gap_started_at >= started_at:
        return
    if gap.gap_cause == NOT_RUNNING and outcome == NOT_KEPT:
        cause = outcome
    else:
        outcomes = connection.scalars(
            select(polls.c.outcome)
            .where(
                polls.c.account == account,
                polls.c.started_at > gap.gap_started_at,
                polls.c.started_at < gap.started_at,
                polls.c.outcome != "ok",
            )
            .group_by(polls.c.outcome)
            .order_by(func.count().desc(), func.max(polls.c.started_at).desc())
        ).all()
        if not outcomes or gap.gap_cause not in {NOT_RUNNING, *outcomes}:
            return
        cause = outcomes[0]
    connection.execute(
        update(coverage)
        .where(coverage.c.account == account, coverage.c.started_at == gap.started_at)
        .values(gap_cause=cause)
    )


def present_cause(connection: Connection, account: str) -> str:
    """Return the outcome that most polls since an account's last observation had.

    This is the cause of the gap that the next observation may end. Of several outcomes with equally
    many polls, the one with the latest poll wins; without any polls it is `not_running`.
    """
    return connection.scalar(_MAIN_OUTCOME, {"of": account}) or NOT_RUNNING


def main_outcome(account: ColumnElement[str]) -> Select[tuple[str]]:
    """Return the statement of `present_cause`, which finds nothing if it is `not_running`.

    Args:
        account: a parameter, or the column of another table's row.
    """
    return (
        select(gap_outcomes.c.outcome)
        .where(gap_outcomes.c.account == account)
        .order_by(gap_outcomes.c.polls.desc(), gap_outcomes.c.last_started_at.desc())
        .limit(1)
    )


# The statement is built once, because SQLAlchemy takes longer to build it than to run it.
_MAIN_OUTCOME = main_outcome(bindparam("of"))
