"""Read the status of each account from the history, for `status` and `report`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from exporter.database.database import set_statement_timeout
from exporter.history.gap_cause import present_cause
from exporter.history.schema import accounts, polls
from exporter.reading import figures
from exporter.reading.connect import read_only_transaction
from exporter.reading.stream_status import StreamStatus, stream_status

_DAY = timedelta(days=1)
_SECONDS = 30.0  # for each statement on Postgres: monitoring waits for no hanging server


@dataclass(frozen=True, slots=True, kw_only=True)
class LastPoll:
    """The latest poll of an account.

    Attributes:
        age: seconds since it began.
        error: what the exchange said was wrong, in one line; None if it said nothing.
    """

    started_at: datetime
    age: float
    outcome: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The gap of an account that is not being observed now.

    Attributes:
        since: its last observation; None if there was none.
        cause: the outcome that most polls since had, or `not_running`.
    """

    since: datetime | None
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """The status of one account.

    Attributes:
        last_poll: None if there was none yet.
        observed_at: the last observation; None if there was none yet.
        age: seconds since then.
        max_age: seconds beyond which it is stale.
        stale: whether it is older, or the account was never observed.
        groups: how many order groups stand; None if it was never observed.
        missing: those of them that the latest polls did not see, unconfirmed.
        changes: of order groups in the last 24 hours. `exporter.reading.figures` defines these.
        gap: None if the last observation is recent enough for the next to follow without a gap.
        spooled: observations that wait for the database.
        stream: the status of its stream of events.
    """

    account: str
    last_poll: LastPoll | None
    observed_at: datetime | None
    age: float | None
    max_age: float
    stale: bool
    groups: int | None
    missing: int
    changes: int
    gap: Gap | None
    spooled: int
    stream: StreamStatus


def status(
    url: str,
    configured: Iterable[tuple[str, float]],
    *,
    now: datetime,
    max_age: float | None = None,
    spooled: Mapping[str, int] | None = None,
) -> list[AccountStatus]:
    """Return the status of each account, as of one instant.

    Args:
        url: the database, as the configuration names it.
        configured: each account's name, and the seconds between its polls.
        now: the present instant.
        max_age: seconds after which an observation is stale; 2.5 intervals if None.
        spooled: how many observations of each account wait for the database.

    Returns:
        One for each account, in the order given.

    Raises:
        ConfigurationError: there is no database.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed.
    """
    with read_only_transaction(url) as connection:
        set_statement_timeout(connection, seconds=_SECONDS)
        changes = figures.changes_of_all(connection, now - _DAY)
        statuses = []
        for account, interval in configured:
            recent = figures.recent(connection, account, interval).total_seconds()
            limit = recent if max_age is None else max_age
            observed_at = connection.execute(
                select(accounts.c.observed_at).where(accounts.c.account == account)
            ).scalar()
            groups = figures.standing(connection, account)
            age = None if observed_at is None else _age(now, observed_at)
            gap = None
            if age is None or age > recent:
                cause = present_cause(connection, account)
                gap = Gap(since=observed_at, cause=cause)
            statuses.append(
                AccountStatus(
                    account=account,
                    last_poll=_last_poll(connection, account, now),
                    observed_at=observed_at,
                    age=age,
                    max_age=limit,
                    stale=age is None or age > limit,
                    groups=None if observed_at is None else groups.groups,
                    missing=groups.missing,
                    changes=changes.get(account, figures.Changed()).total,
                    gap=gap,
                    spooled=(spooled or {}).get(account, 0),
                    stream=stream_status(connection, account, now),
                )
            )
    return statuses


def _last_poll(connection: Connection, account: str, now: datetime) -> LastPoll | None:
    row = connection.execute(
        select(polls.c.started_at, polls.c.outcome, polls.c.error_code, polls.c.error_message)
        .where(polls.c.account == account)
        .order_by(polls.c.started_at.desc(), polls.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    started_at, outcome, code, message = row
    error = ": ".join(part for part in (code, message) if part)
    return LastPoll(
        started_at=started_at, age=_age(now, started_at), outcome=outcome, error=error or None
    )


def _age(now: datetime, instant: datetime) -> float:
    """Return the seconds in between, or 0 if another machine's clock is ahead of this one's."""
    return max(0.0, (now - instant).total_seconds())
