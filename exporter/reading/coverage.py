"""Find out whether an account was observed at an instant, and if not, why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from exporter.causes import explain
from exporter.history.gap_cause import present_cause
from exporter.history.schema import accounts, coverage, to_text
from exporter.reading import figures


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageAt:
    """The accounts that were observed at an instant, and those that were not.

    Attributes:
        observed: the names of those that were.
        notices: one line for each that was not, with the reason.
    """

    observed: tuple[str, ...]
    notices: tuple[str, ...]


def coverage_at(connection: Connection, instant: datetime, names: Sequence[str]) -> CoverageAt:
    """Find out which accounts were observed at an instant.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        instant: any, aware.
        names: the accounts to look at; all that are recorded if empty.
    """
    if not names:
        names = connection.scalars(select(accounts.c.account)).all()
    observed = []
    notices = []
    for account in sorted(names):
        reason = _not_observed(connection, account, instant)
        if reason is None:
            observed.append(account)
        else:
            notices.append(f"{account}: not observed at {to_text(instant)}: {reason}")
    return CoverageAt(observed=tuple(observed), notices=tuple(notices))


def stale(
    connection: Connection, now: datetime, names: Sequence[str], intervals: Mapping[str, float]
) -> tuple[str, ...]:
    """Return one line for each account that is not being observed now: since when, and why.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        now: the present instant.
        names: the accounts to look at; all that are recorded if empty.
        intervals: seconds between the polls of each account that is configured.
    """
    heads = select(accounts.c.account, accounts.c.observed_at).order_by(accounts.c.account)
    if names:
        heads = heads.where(accounts.c.account.in_(names))
    notices = []
    for account, observed_at in connection.execute(heads).all():
        recent = figures.recent(connection, account, intervals.get(account))
        if observed_at is not None and now - observed_at <= recent:
            continue
        since = "never observed"
        if observed_at is not None:
            since = f"as of {to_text(observed_at)}; not observed since"
        cause = explain(present_cause(connection, account))
        notices.append(f"{account}: {since}, because {cause}")
    return tuple(notices)


def _not_observed(connection: Connection, account: str, instant: datetime) -> str | None:
    """Return why an account was not observed at an instant; None if it was."""
    mine = coverage.c.account == account
    before = connection.execute(
        select(coverage.c.ended_at)
        .where(mine, coverage.c.started_at <= instant)
        .order_by(coverage.c.started_at.desc())
        .limit(1)
    ).scalar()
    if before is not None and instant <= before:
        return None
    after = connection.execute(
        select(coverage.c.started_at, coverage.c.gap_started_at, coverage.c.gap_cause)
        .where(mine, coverage.c.started_at > instant)
        .order_by(coverage.c.started_at)
        .limit(1)
    ).one_or_none()
    if after is None:
        cause = present_cause(connection, account)
        if before is None:
            return f"never observed, because {explain(cause)}"
        return f"after the last observation at {to_text(before)}, because {explain(cause)}"
    started_at, gap_started_at, gap_cause = after
    if gap_started_at is None:
        return f"before the first observation at {to_text(started_at)}"
    return (
        f"gap from {to_text(gap_started_at)} to {to_text(started_at)}, because {explain(gap_cause)}"
    )
