"""Read from the history whether an account's events are being heard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, select

from exporter.causes import NOT_LISTENING, explain
from exporter.history.schema import Instant, accounts, stream_coverage, to_text
from exporter.history.types import among
from exporter.reading.activity import Activity

RECENT = timedelta(seconds=60)
"""A daemon that listens extends its stretch some times a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamGap:
    """The gap in the stream of an account whose events nobody hears now.

    Attributes:
        since: the last instant up to which all were heard; None if nobody ever listened.
        cause: what ended the stretch or prevented a connection; `not_listening` if unknown.
    """

    since: datetime | None
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """The status of an account's stream of events.

    Attributes:
        connected_since: every event since then was heard; None if nobody listens now.
        last_event_at: when the latest event was heard; None if none was.
        gap: None while somebody listens.
        triggers: in the last 24 hours, heard or seen.
    """

    connected_since: datetime | None
    last_event_at: datetime | None
    gap: StreamGap | None
    triggers: int


def stream_statuses(
    connection: Connection, names: Sequence[str], now: datetime, activity: Mapping[str, Activity]
) -> dict[str, StreamStatus]:
    """Return the status of the stream of events of each of some accounts.

    Args:
        connection: in a read-only transaction.
        names: of the accounts.
        now: the present instant.
        activity: of the last 24 hours, by account.
    """
    latest = _latest_of(connection, names)
    found = {}
    for account in names:
        stretch = latest.get(account, _Latest())
        gap = _gap(stretch, now)
        found[account] = StreamStatus(
            connected_since=None if gap else stretch.started_at,
            last_event_at=stretch.last_event_at,
            gap=gap,
            triggers=activity.get(account, Activity()).triggers,
        )
    return found


def stream_gap(connection: Connection, account: str, now: datetime) -> StreamGap | None:
    """Return why nobody hears an account's events now; None if somebody does.

    Args:
        connection: in a read-only transaction.
        account: its name.
        now: the present instant.
    """
    return _gap(_latest_of(connection, [account]).get(account, _Latest()), now)


class _Latest(NamedTuple):
    """The latest stretch of stream coverage of an account, and the latest end of listening.

    The stretch's instants are None if there is none; the others if listening never ended.
    `last_event_at` is that of the latest stretch in which an event was heard.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    last_event_at: datetime | None = None
    gap_started_at: datetime | None = None
    stream_ended_at: datetime | None = None
    stream_end_cause: str | None = None


def _latest_of(connection: Connection, names: Sequence[str]) -> dict[str, _Latest]:
    """Read the latest stretch of some accounts, all of them at once."""
    latest, earlier = stream_coverage, stream_coverage.alias("earlier")
    last_event_at = (
        select(earlier.c.last_event_at)
        .where(earlier.c.account == latest.c.account, earlier.c.last_event_at.is_not(None))
        .order_by(earlier.c.started_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(
            accounts.c.account,
            latest.c.started_at,
            latest.c.ended_at,
            func.coalesce(latest.c.last_event_at, last_event_at, type_=Instant),
            latest.c.gap_started_at,
            accounts.c.stream_ended_at,
            accounts.c.stream_end_cause,
        )
        .select_from(accounts)
        .outerjoin(latest, and_(latest.c.account == accounts.c.account, latest.c.is_latest))
        .where(among(connection, accounts.c.account, names))
    )
    return {account: _Latest(*latest) for account, *latest in rows}


def _gap(latest: _Latest, now: datetime) -> StreamGap | None:
    # If a later stretch followed, the recorded end does not describe the present.
    holds = latest.ended_at is None or (
        latest.stream_ended_at is not None and latest.stream_ended_at >= latest.ended_at
    )
    cause = latest.stream_end_cause if holds else None
    since = latest.ended_at
    if since is not None and since - now > RECENT:
        # A clock that has been set back dated this stretch: its end is unknown. Whoever listens
        # next takes it back.
        is_past = latest.started_at is not None and latest.started_at <= now
        since = latest.started_at if is_past else latest.gap_started_at
    elif since is not None and cause is None and now - since <= RECENT:
        return None
    return StreamGap(since=since, cause=cause or NOT_LISTENING)


def unheard(
    connection: Connection, now: datetime, until: datetime | None, names: Sequence[str]
) -> tuple[str, ...]:
    """Return one line for each account whose events nobody hears now: since when, and why.

    Args:
        connection: in a read-only transaction.
        now: the present instant.
        until: the end of the span that is asked for; None for now.
        names: the accounts to look at; all that are recorded if empty.
    """
    chosen = sorted(names or connection.scalars(select(accounts.c.account)))
    latest = _latest_of(connection, chosen)
    notices = []
    for account in chosen:
        if account not in latest:  # nothing of it is recorded
            continue
        gap = _gap(latest[account], now)
        if gap is None or (until is not None and gap.since is not None and until <= gap.since):
            continue
        since = "never listened"
        if gap.since is not None:
            since = f"not listening since {to_text(gap.since)}"
        notices.append(f"{account}: {since}, because {explain(gap.cause)}")
    return tuple(notices)
