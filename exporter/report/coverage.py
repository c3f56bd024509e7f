"""What of a span was observed, and why the rest was not: the strip and the first words of a report.

Reads the table `coverage` once, in order; `exporter.reading.coverage` answers for one instant.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, or_, select

from exporter.history.advance import COVERAGE_INTERVALS
from exporter.history.gap_cause import present_cause
from exporter.history.schema import accounts, coverage, polls
from exporter.report.span import Span, seconds_of

BEFORE = "before"
"""Not a gap: nobody had begun to look."""

# Gaps that a strip shows one by one, and those that are listed: of one account, and of all.
_SEGMENTS, _ALL_SEGMENTS = 800, 8_000
_LONGEST, _ALL_LONGEST = 15, 500
_DEFAULT_INTERVAL = 60.0


@dataclass(slots=True, kw_only=True)
class Observed:
    """What of a span was observed of one account.

    Attributes:
        last: the last observation of all, even after the span; None if there was none.
        first: the first observation of all; None if there was none.
        recording: whether the next observation can still follow the last without a gap.
        seconds: how much of the span there was to observe: since the account's beginning.
        missed: seconds that were not observed, by cause.
        gaps: how many there were.
        segments: what the strip shows: start and end, in seconds since 1970, cause, number of
            gaps in it, seconds missed. Several gaps become one segment if there are so many that
            nobody could tell them apart.
        longest: the longest gaps, longest first: seconds, start, end, cause.
        seen: for each part of the span, whether any observation lies in it.
    """

    last: datetime | None
    first: datetime | None
    recording: bool
    seconds: float
    missed: dict[str, float] = field(default_factory=dict)
    gaps: int = 0
    segments: list[list[Any]] = field(default_factory=list)
    longest: list[tuple[float, float, float, str]] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)


def observed(
    connection: Connection, account: str, span: Span, *, interval: float | None, now: datetime
) -> Observed:
    """Find out what of a span was observed of an account.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        interval: seconds between its polls; None if it is not configured any more.
        now: the present instant.
    """
    mine = coverage.c.account == account
    first = connection.scalar(select(func.min(coverage.c.started_at)).where(mine))
    last = connection.scalar(select(accounts.c.observed_at).where(accounts.c.account == account))
    patience = timedelta(
        seconds=COVERAGE_INTERVALS * (interval or _usual_interval(connection, account))
    )
    begun = first or connection.scalar(
        select(func.min(polls.c.started_at)).where(polls.c.account == account)
    )
    start = min(max(begun or span.since, span.since), span.until)
    found = Observed(
        last=last,
        first=first,
        recording=last is not None and now - last <= patience,
        seconds=(span.until - start).total_seconds(),
        seen=bytearray(span.parts),
    )
    if start - span.since > patience:  # more than what the first poll took
        found.segments.append([seconds_of(span.since), seconds_of(start), BEFORE, 0, 0.0])
    count = connection.scalar(select(func.count()).select_from(coverage).where(mine)) or 0
    segments = span.at_most(_SEGMENTS, _ALL_SEGMENTS)
    resolution = 0.0 if count <= segments else span.seconds / segments
    for gap in _gaps(connection, account, span, found.seen):
        _add(found, span, resolution, gap)
    if last is None or span.until - last > patience:
        cause = present_cause(connection, account)
        _add(found, span, resolution, (max(last or start, start), span.until, cause))
    found.longest.sort(reverse=True)
    return found


def _usual_interval(connection: Connection, account: str) -> float:
    """The seconds between the polls of an account's last stretch."""
    row = connection.execute(
        select(coverage.c.started_at, coverage.c.ended_at, coverage.c.polls)
        .where(coverage.c.account == account, coverage.c.polls > 1)
        .order_by(coverage.c.started_at.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return _DEFAULT_INTERVAL
    started_at, ended_at, count = row
    usual: float = (ended_at - started_at).total_seconds() / (count - 1)
    return usual or _DEFAULT_INTERVAL


def _gaps(
    connection: Connection, account: str, span: Span, seen: bytearray
) -> Iterator[tuple[datetime, datetime, str]]:
    """The gaps that reach into a span, in order; notes on the way which parts were seen."""
    rows = connection.execute(
        select(
            coverage.c.started_at,
            coverage.c.ended_at,
            coverage.c.gap_started_at,
            coverage.c.gap_cause,
        )
        .where(
            coverage.c.account == account,
            coverage.c.ended_at >= span.since,
            or_(coverage.c.started_at <= span.until, coverage.c.gap_started_at < span.until),
        )
        .order_by(coverage.c.started_at),
        execution_options={"yield_per": 5_000},
    )
    for started_at, ended_at, gap_started_at, cause in rows:
        if started_at <= span.until:
            first, last = span.part(started_at), span.part(ended_at)
            seen[first : last + 1] = b"\1" * (last + 1 - first)
        if gap_started_at is not None and started_at > span.since:
            yield gap_started_at, started_at, cause


def _add(
    found: Observed,
    span: Span,
    resolution: float,
    gap: tuple[datetime, datetime, str],
) -> None:
    gap_start, gap_end, cause = gap
    start = seconds_of(max(gap_start, span.since))
    end = seconds_of(min(gap_end, span.until))
    missed = max(end - start, 0.0)
    found.gaps += 1
    found.missed[cause] = found.missed.get(cause, 0.0) + missed
    longest = (missed, start, end, cause)
    if len(found.longest) < span.at_most(_LONGEST, _ALL_LONGEST):
        heapq.heappush(found.longest, longest)
    else:
        heapq.heappushpop(found.longest, longest)
    latest = found.segments[-1] if found.segments else None
    if latest is None or latest[2] == BEFORE or start - latest[0] >= resolution:
        found.segments.append([start, end, cause, 1, round(missed, 3)])
        return
    latest[1] = end
    latest[3] += 1
    if missed > latest[4]:  # mostly this one's
        latest[2] = cause
    latest[4] = round(latest[4] + missed, 3)
