"""Read from the history whether an account's events are being heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, select

from exporter.causes import NOT_LISTENING, explain
from exporter.history.schema import accounts, stream_coverage, to_text
from exporter.reading import views

RECENT = timedelta(seconds=60)
"""A daemon that listens extends its stretch some times a minute."""

_DAY = timedelta(days=1)


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


def stream_status(connection: Connection, account: str, now: datetime) -> StreamStatus:
    """Return the status of an account's stream of events.

    Args:
        connection: in a read-only transaction.
        account: its name.
        now: the present instant.
    """
    latest = _latest(connection, account)
    gap = _gap(latest, now)
    last_event_at = latest.last_event_at
    if last_event_at is None and latest.started_at is not None:
        # Nothing was heard in the latest stretch: look for an event in those before it.
        last_event_at = connection.execute(
            select(stream_coverage.c.last_event_at)
            .where(
                stream_coverage.c.account == account, stream_coverage.c.last_event_at.is_not(None)
            )
            .order_by(stream_coverage.c.started_at.desc())
            .limit(1)
        ).scalar()
    triggers = views.order_group_triggers
    count = select(func.count()).where(
        triggers.c.account == account, triggers.c.triggered_at >= now - _DAY
    )
    return StreamStatus(
        connected_since=None if gap else latest.started_at,
        last_event_at=last_event_at,
        gap=gap,
        triggers=connection.execute(count).scalar_one(),
    )


def stream_gap(connection: Connection, account: str, now: datetime) -> StreamGap | None:
    """Tell why nobody hears an account's events now; return None if somebody does.

    Args:
        connection: in a read-only transaction.
        account: its name.
        now: the present instant.
    """
    return _gap(_latest(connection, account), now)


class _Latest(NamedTuple):
    """The latest stretch of stream coverage of an account, and the latest end of listening.

    The stretch's columns are None if there is none; the others if listening never ended.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    last_event_at: datetime | None = None
    gap_started_at: datetime | None = None
    stream_ended_at: datetime | None = None
    stream_end_cause: str | None = None


def _latest(connection: Connection, account: str) -> _Latest:
    """Read all of it at once: for many accounts on Postgres, round trips dominate."""
    row = connection.execute(
        select(
            stream_coverage.c.started_at,
            stream_coverage.c.ended_at,
            stream_coverage.c.last_event_at,
            stream_coverage.c.gap_started_at,
            accounts.c.stream_ended_at,
            accounts.c.stream_end_cause,
        )
        .select_from(accounts)
        .outerjoin(
            stream_coverage,
            and_(stream_coverage.c.account == accounts.c.account, stream_coverage.c.is_latest),
        )
        .where(accounts.c.account == account)
    ).one_or_none()
    return _Latest() if row is None else _Latest(*row)


def _gap(latest: _Latest, now: datetime) -> StreamGap | None:
    # An end that a later stretch has followed says nothing of the present.
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
    chosen = select(accounts.c.account).order_by(accounts.c.account)
    if names:
        chosen = chosen.where(accounts.c.account.in_(names))
    notices = []
    for account in connection.scalars(chosen).all():
        gap = stream_gap(connection, account, now)
        if gap is None or (until is not None and gap.since is not None and until <= gap.since):
            continue
        since = "never listened"
        if gap.since is not None:
            since = f"not listening since {to_text(gap.since)}"
        notices.append(f"{account}: {since}, because {explain(gap.cause)}")
    return tuple(notices)
