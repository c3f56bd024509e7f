"""Stream coverage: the union of the spans in which some connection heard every event.

Several daemons listen to an account, and each writes the span of its own connection. A span that
touches a stretch extends it; one that touches two joins them, because its connection listened
through the gap between them. So the stretches do not depend on the order in which daemons write,
and the same span may be written again.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from exporter.causes import NOT_KEPT, NOT_LISTENING, StreamGapCause
from exporter.history.schema import Instant, accounts, stream_coverage
from exporter.history.stream_stretches import (
    TICK,
    Stretch,
    beginning_at,
    read_stretches,
    reported_cause,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A connection's claim that no event between two instants, inclusive, is missing.

    Attributes:
        since, until: UTC.
        events: how many were added with it.
        last_event_at: when the latest of these was heard; None if there are none.
        cause: why listening ended at `until`; None while it goes on.
    """

    since: datetime
    until: datetime
    events: int
    last_event_at: datetime | None
    cause: StreamGapCause | None


_table = stream_coverage


def begin(connection: Connection, account: str, since: datetime) -> datetime:
    """Return the instant since which a connection that subscribed at `since` may claim to listen.

    It is later than every earlier claim: after a clock was set back, the span in which nobody
    listened must not vanish in a stretch that ends in the future.
    """
    ended_at = connection.execute(
        select(_table.c.ended_at).where(_table.c.account == account, _table.c.is_latest)
    ).scalar()
    return since if ended_at is None else max(since, ended_at + TICK)


def extend_latest(connection: Connection, account: str, span: Span) -> bool:
    """Extend the latest stretch by a span that begins in it and goes on; return whether it did."""
    return connection.execute(EXTEND_LATEST, parameters(account, span)).rowcount > 0


def parameters(account: str, span: Span) -> dict[str, Any]:
    """Return the parameters of `EXTEND_LATEST`."""
    return {
        "of": account,
        "since": span.since,
        "until": span.until,
        "more": span.events,
        "heard_at": span.last_event_at,
    }


_UNTIL = bindparam("until", type_=Instant)
_SINCE = bindparam("since", type_=Instant)
_HEARD_AT = bindparam("heard_at", type_=Instant)
EXTEND_LATEST = (
    update(_table)
    .where(
        _table.c.account == bindparam("of"),
        # Beginning another stretch clears this mark, so that on Postgres a daemon that waited for
        # the row no longer updates it.
        _table.c.is_latest,
        _table.c.ended_at >= _SINCE,
        # A span that begins before the stretch may fill the gap before it, unless that gap's events
        # were not kept: nothing can fill such a gap.
        or_(_table.c.started_at <= _SINCE, _table.c.gap_cause == NOT_KEPT),
    )
    .values(
        ended_at=case((_table.c.ended_at < _UNTIL, _UNTIL), else_=_table.c.ended_at),
        events=_table.c.events + bindparam("more", type_=Integer),
        last_event_at=case(
            (_table.c.last_event_at.is_(None), _HEARD_AT),
            (_table.c.last_event_at < _HEARD_AT, _HEARD_AT),
            else_=_table.c.last_event_at,
        ),
    )
)
"""This statement extends the latest stretch if the span begins in it and touches no other."""


def lock_latest(connection: Connection, account: str) -> None:
    """Lock the latest stretch, so that nobody extends it before this transaction ends."""
    read_stretches(connection, account, _table.c.is_latest)


def claim(connection: Connection, account: str, span: Span) -> None:
    """Add a span to the account's coverage, whichever stretches it touches.

    Args:
        connection: in a transaction that locks the account.
        account: whose stream.
        span: of one connection; its events are in the same transaction.
    """
    # The lock comes before any read, because other daemons extend the stretch without locking the
    # account.
    lock_latest(connection, account)
    since = _after_what_was_not_kept(connection, account, span)
    if since > span.until:
        return
    touched = read_stretches(
        connection, account, _table.c.started_at <= span.until, _table.c.ended_at >= since
    )
    merged = _merged(span, since, touched)
    if not touched:
        merged = _with_gap_before(connection, account, merged)
    for each in touched:
        connection.execute(
            delete(_table).where(_table.c.account == account, beginning_at(each.started_at))
        )
    if not touched and merged.is_latest and merged.gap_started_at is not None:
        connection.execute(
            update(_table)
            .where(_table.c.account == account, _table.c.is_latest)
            .values(is_latest=False)
        )
    connection.execute(insert(_table), {"account": account} | dataclasses.asdict(merged))
    if not merged.is_latest:
        _begin_gap_after(connection, account, merged, span)


def _merged(span: Span, since: datetime, touched: Sequence[Stretch]) -> Stretch:
    heard = [each.last_event_at for each in touched if each.last_event_at is not None]
    if span.last_event_at is not None:
        heard.append(span.last_event_at)
    first = touched[0] if touched else None
    return Stretch(
        started_at=min([since, *(each.started_at for each in touched)]),
        ended_at=max([span.until, *(each.ended_at for each in touched)]),
        events=span.events + sum(each.events for each in touched),
        last_event_at=max(heard, default=None),
        gap_started_at=None if first is None else first.gap_started_at,
        gap_cause=None if first is None else first.gap_cause,
        is_latest=touched[-1].is_latest if touched else True,
    )


def _with_gap_before(connection: Connection, account: str, stretch: Stretch) -> Stretch:
    """Return a new stretch with the gap before it, if it is not the first, and its place."""
    before = read_stretches(
        connection, account, _table.c.ended_at < stretch.started_at, newest=True
    )
    after = read_stretches(connection, account, _table.c.started_at > stretch.ended_at, oldest=True)
    cause: str | None = None
    if before and after:
        cause = after[0].gap_cause  # it said what ended the one before
    elif before:
        cause = reported_cause(connection, account, before[0]) or NOT_LISTENING
    return replace(
        stretch,
        gap_started_at=before[0].ended_at if before else None,
        gap_cause=cause,
        is_latest=not after,
    )


def _begin_gap_after(connection: Connection, account: str, stretch: Stretch, span: Span) -> None:
    """Let the gap between a stretch and the next begin at its end."""
    [after] = read_stretches(
        connection, account, _table.c.started_at > stretch.ended_at, oldest=True
    )
    if after.gap_started_at == stretch.ended_at:
        return
    cause = after.gap_cause or NOT_LISTENING
    if span.cause is not None and stretch.ended_at == span.until:
        cause = span.cause
    connection.execute(
        update(_table)
        .where(_table.c.account == account, beginning_at(after.started_at))
        .values(gap_started_at=stretch.ended_at, gap_cause=cause)
    )


def _after_what_was_not_kept(connection: Connection, account: str, span: Span) -> datetime:
    """Return where the span begins: after the last gap in it whose events were not kept.

    The connection heard those events, but they are lost.
    """
    began = connection.execute(
        select(func.max(_table.c.started_at, type_=Instant)).where(
            _table.c.account == account,
            _table.c.gap_cause == NOT_KEPT,
            _table.c.started_at <= span.until,
        )
    ).scalar()
    return span.since if began is None else max(span.since, began)


def report_end(connection: Connection, account: str, cause: StreamGapCause, at: datetime) -> None:
    """Note why listening ended: the cause of the gap that may follow.

    Of several causes since the latest stretch ended, the first counts: it ended the stretch.

    Args:
        connection: in a transaction that locks the account, after its span was added.
        account: whose stream.
        cause: of the end.
        at: when it ended; of a connection that could not be made, the present instant.
    """
    latest = read_stretches(connection, account, _table.c.is_latest)
    if latest and (at < latest[0].ended_at or reported_cause(connection, account, latest[0])):
        return
    connection.execute(
        update(accounts)
        .where(accounts.c.account == account)
        .values(stream_end_cause=cause, stream_ended_at=at)
    )
