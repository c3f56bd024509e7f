"""Read from the history whether an account's events are being heard."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from exporter.causes import NOT_LISTENING
from exporter.history.schema import accounts, stream_coverage
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
    mine = stream_coverage.c.account == account
    connected_since = connection.execute(
        select(stream_coverage.c.started_at).where(mine, stream_coverage.c.is_latest)
    ).scalar()
    last_event_at = connection.execute(
        select(stream_coverage.c.last_event_at)
        .where(mine, stream_coverage.c.last_event_at.is_not(None))
        .order_by(stream_coverage.c.started_at.desc())
        .limit(1)
    ).scalar()
    gap = stream_gap(connection, account, now)
    triggers = views.order_group_triggers
    count = select(func.count()).where(
        triggers.c.account == account, triggers.c.triggered_at >= now - _DAY
    )
    return StreamStatus(
        connected_since=None if gap else connected_since,
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
    ended_at = connection.execute(
        select(stream_coverage.c.ended_at).where(
            stream_coverage.c.account == account, stream_coverage.c.is_latest
        )
    ).scalar()
    cause = _cause_since(connection, account, ended_at)
    if ended_at is None or cause is not None or now - ended_at > RECENT:
        return StreamGap(since=ended_at, cause=cause or NOT_LISTENING)
    return None


def _cause_since(connection: Connection, account: str, ended_at: datetime | None) -> str | None:
    """Return why listening ended; None if nobody has said so since the latest stretch's end."""
    end = select(accounts.c.stream_end_cause).where(accounts.c.account == account)
    if ended_at is not None:
        end = end.where(accounts.c.stream_ended_at >= ended_at)
    return connection.execute(end).scalar()
