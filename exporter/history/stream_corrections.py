"""Take back stream coverage that was claimed and turns out to be wrong."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from exporter.causes import NOT_KEPT, NOT_LISTENING, StreamGapCause
from exporter.history.schema import accounts, stream_coverage
from exporter.history.stream_stretches import TICK, Stretch, beginning_at, read_stretches

_AHEAD = timedelta(seconds=2)
"""The clocks of two machines that listen may differ so much, and nothing is taken back."""

_SKEW = timedelta(seconds=60)
"""A clock is never so wrong when the exchange accepts a handshake."""

_table = stream_coverage


def take_back(
    connection: Connection,
    account: str,
    *,
    after: datetime,
    until: datetime,
    cause: StreamGapCause,
) -> None:
    """Take back what a connection has claimed, because a message was lost in that span.

    Another connection that listened all the time claims its part again with its next span.

    Args:
        connection: in a transaction that locks the account and its latest stretch.
        account: whose stream.
        after: the last instant that is certain.
        until: the last instant that was claimed.
        cause: of the gap between them.
    """
    found = read_stretches(
        connection, account, _table.c.started_at <= until, _table.c.ended_at > after
    )
    if after < until and found:
        _remove(connection, account, found, after=after, until=until, cause=cause)


def is_dated_ahead(connection: Connection, account: str, now: datetime) -> bool:
    """Return whether the stretches of an account, or their end, are dated later than now."""
    row = connection.execute(
        select(_table.c.ended_at, accounts.c.stream_ended_at)
        .select_from(accounts)
        .outerjoin(_table, and_(_table.c.account == accounts.c.account, _table.c.is_latest))
        .where(accounts.c.account == account)
    ).one_or_none()
    return any(each is not None and each > now + _AHEAD for each in row or ())


def take_back_ahead(connection: Connection, account: str, now: datetime) -> None:
    """Take back what is claimed of the future: the clock that dated it was ahead.

    A clock that was ahead leaves the real end of a stretch unknown. What is kept of a stretch is
    what remains if the clock was as wrong as the exchange accepts at most; nothing if it was more.

    Args:
        connection: in a transaction that locks the account and its latest stretch.
        account: whose stream.
        now: the present instant, by a clock that the exchange has just accepted.
    """
    ahead = read_stretches(connection, account, _table.c.ended_at > now + _AHEAD)
    if ahead:
        start, end = ahead[0].started_at, ahead[-1].ended_at
        after = max(start, now - _SKEW) if ahead[0].ended_at <= now + _SKEW else start
        _remove(connection, account, ahead, after=min(after, now), until=end, cause=NOT_LISTENING)
    connection.execute(
        update(accounts)
        .where(accounts.c.account == account, accounts.c.stream_ended_at > now)
        .values(stream_ended_at=now)
    )


def _remove(
    connection: Connection,
    account: str,
    stretches: Sequence[Stretch],
    *,
    after: datetime,
    until: datetime,
    cause: StreamGapCause,
) -> None:
    """Remove a span from the stretches that it touches, which are neighbors."""
    first, last = stretches[0], stretches[-1]
    for each in stretches:
        connection.execute(
            delete(_table).where(_table.c.account == account, beginning_at(each.started_at))
        )
    gap_started_at, gap_cause = first.gap_started_at, first.gap_cause
    if first.started_at <= after:
        _insert(connection, account, replace(first, ended_at=after, is_latest=False))
        gap_started_at, gap_cause = after, cause
    if any(each.gap_cause == NOT_KEPT for each in stretches[1:]):
        gap_cause = NOT_KEPT  # nobody may fill it
    if last.ended_at > until:  # which another connection has claimed
        rest = replace(
            last,
            started_at=until + TICK,
            events=0,
            last_event_at=None,
            gap_started_at=gap_started_at,
            gap_cause=gap_cause,
        )
        _insert(connection, account, rest)
    elif last.is_latest:
        for before in read_stretches(connection, account, newest=True):
            _update(connection, account, before, is_latest=True)
    else:
        [after_it] = read_stretches(
            connection, account, _table.c.started_at > last.started_at, oldest=True
        )
        _update(connection, account, after_it, gap_started_at=gap_started_at, gap_cause=gap_cause)


def _insert(connection: Connection, account: str, stretch: Stretch) -> None:
    connection.execute(insert(_table), {"account": account} | dataclasses.asdict(stretch))


def _update(connection: Connection, account: str, stretch: Stretch, **values: Any) -> None:
    connection.execute(
        update(_table)
        .where(_table.c.account == account, beginning_at(stretch.started_at))
        .values(**values)
    )
