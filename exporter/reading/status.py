"""Read the status of each account from the history, for `status` and `report`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, FromClause, select, true

from exporter.causes import NOT_RUNNING
from exporter.database.database import set_statement_timeout
from exporter.history.gap_cause import main_outcome
from exporter.history.schema import accounts, polls
from exporter.history.types import among
from exporter.reading import figures
from exporter.reading.activity import Activity, activity_since
from exporter.reading.connect import read_only_transaction
from exporter.reading.stream_status import StreamStatus, stream_statuses

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
        changes: of order groups in the last 24 hours. `exporter.reading.figures` defines these
            figures.
        gap: None if the last observation is recent enough for the next to follow without a gap.
        spooled: observations that wait for the database.
        stream: the status of its stream of events.
        stream_enabled: whether the configuration lets a daemon listen to it.
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
    stream_enabled: bool = True


def status(
    url: str,
    configured: Iterable[tuple[str, float]],
    *,
    now: datetime,
    max_age: float | None = None,
    spooled: Mapping[str, int] | None = None,
    switched_off: Collection[str] = (),
) -> list[AccountStatus]:
    """Return the status of each account, as of one instant.

    Args:
        url: the database, as the configuration names it.
        configured: each account's name, and the seconds between its polls.
        now: the present instant.
        max_age: seconds after which an observation is stale; 2.5 intervals if None.
        spooled: how many observations of each account wait for the database.
        switched_off: the accounts whose stream the configuration switches off.

    Returns:
        One for each account, in the order given.

    Raises:
        ConfigurationError: there is no database.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed.
    """
    accounts_ = list(configured)
    names = [account for account, _ in accounts_]
    # Some statements for all accounts: with some for each, SQLAlchemy and round trips dominate.
    with read_only_transaction(url) as connection:
        set_statement_timeout(connection, seconds=_SECONDS)
        heads = _heads(connection, names, now)
        standing = figures.standing(connection, names)
        activity = activity_since(connection, now - _DAY)
        streams = stream_statuses(connection, names, now, activity)
        recents = [figures.recent(connection, *each).total_seconds() for each in accounts_]
    statuses = []
    for account, recent in zip(names, recents, strict=True):
        limit = recent if max_age is None else max_age
        head = heads.get(account, _NO_HEAD)
        groups = standing.get(account, figures.Standing(groups=0, missing=0))
        day = activity.get(account, Activity())
        age = None if head.observed_at is None else _age(now, head.observed_at)
        gap = None
        if age is None or age > recent:
            gap = Gap(since=head.observed_at, cause=head.cause)
        statuses.append(
            AccountStatus(
                account=account,
                last_poll=head.last_poll,
                observed_at=head.observed_at,
                age=age,
                max_age=limit,
                stale=age is None or age > limit,
                groups=None if head.observed_at is None else groups.groups,
                missing=groups.missing,
                changes=day.changes,
                gap=gap,
                spooled=(spooled or {}).get(account, 0),
                stream=streams[account],
                stream_enabled=account not in switched_off,
            )
        )
    return statuses


class _Head(NamedTuple):
    """An account's last observation, its latest poll, and the cause of a gap since then."""

    observed_at: datetime | None
    cause: str
    last_poll: LastPoll | None


_NO_HEAD = _Head(observed_at=None, cause=NOT_RUNNING, last_poll=None)


def _heads(connection: Connection, names: Sequence[str], now: datetime) -> dict[str, _Head]:
    """Return what the heads of some accounts say; those that were never polled are left out."""
    columns: tuple[ColumnElement[Any], ...] = (
        polls.c.started_at,
        polls.c.outcome,
        polls.c.error_code,
        polls.c.error_message,
    )
    latest = (
        select(*columns)
        .where(polls.c.account == accounts.c.account)
        .order_by(polls.c.started_at.desc(), polls.c.id.desc())
        .limit(1)
    )
    source: FromClause
    if connection.dialect.name == "sqlite":  # which knows no LATERAL, and finds a poll by its id
        latest_id = latest.with_only_columns(polls.c.id).correlate(accounts).scalar_subquery()
        source = accounts.outerjoin(polls, polls.c.id == latest_id)
    else:
        poll = latest.lateral("poll")
        source = accounts.outerjoin(poll, true())
        columns = tuple(poll.c)
    cause = main_outcome(accounts.c.account).correlate(accounts).scalar_subquery()
    rows = connection.execute(
        select(accounts.c.account, accounts.c.observed_at, cause, *columns)
        .select_from(source)
        .where(among(connection, accounts.c.account, names))
    )
    return {
        account: _Head(observed_at, cause or NOT_RUNNING, _last_poll(poll, now))
        for account, observed_at, cause, *poll in rows
    }


def _last_poll(row: Sequence[Any], now: datetime) -> LastPoll | None:
    started_at, outcome, code, message = row
    if started_at is None:
        return None
    error = ": ".join(part for part in (code, message) if part)
    return LastPoll(
        started_at=started_at, age=_age(now, started_at), outcome=outcome, error=error or None
    )


def _age(now: datetime, instant: datetime) -> float:
    """Return the seconds in between, or 0 if another machine's clock is ahead of this one's."""
    return max(0.0, (now - instant).total_seconds())
