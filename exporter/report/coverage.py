"""What of a span was observed by polls, and what was heard on the stream, and why the rest was not.

Both have a table of stretches, which is read once, in order.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, Table, func, or_, select

from exporter.causes import NOT_LISTENING
from exporter.history.gap_cause import present_cause
from exporter.history.schema import Instant, accounts, coverage, polls, stream_coverage
from exporter.reading.figures import recent
from exporter.reading.stream_status import RECENT, stream_gap
from exporter.report.span import Span, seconds_of

BEFORE = "before"
"""Not a gap: recording had not begun."""

# Gaps that a strip shows one by one, and those that are listed: of one account, and of all.
_SEGMENTS, _ALL_SEGMENTS = 800, 16_000
_LONGEST, _ALL_LONGEST = 50, 2_000
_CELLS, _ALL_CELLS = 100, 24_000

Segment = tuple[float, float, str, int, float]
"""Start and end in seconds since 1970, the cause, how many gaps, the seconds that they miss."""
Cell = tuple[int, int, str]
"""The number of a cell of a strip, how much of it is missing in percent, the main cause."""


@dataclass(slots=True, kw_only=True)
class Covered:
    """What of a span was covered for one account.

    Attributes:
        first, last: the beginning of the first stretch of all and the end of the latest, even
            outside the span; None if there was none.
        current: whether the next observation or event can still follow without a gap.
        cause: why it is not covered now; None if it is.
        seconds: how much of the span there was to cover: since recording began.
        missed: seconds that were not covered, by cause.
        gaps: how many there were.
        segments: what a strip shows. Several gaps become one segment if there are so many that
            nobody could tell them apart.
        longest: the longest gaps, longest first: seconds, start, end, cause.
        seen: for each part of the span, whether any of it is covered.
    """

    first: datetime | None
    last: datetime | None
    current: bool
    cause: str | None
    seconds: float
    missed: dict[str, float] = field(default_factory=dict)
    gaps: int = 0
    segments: list[Segment] = field(default_factory=list)
    longest: list[tuple[float, float, float, str]] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)

    @property
    def share(self) -> float:
        """Return the share that was covered, from 0 to 1."""
        if self.last is None:
            return 0.0
        if not self.seconds:
            return 1.0
        return max(1.0 - sum(self.missed.values()) / self.seconds, 0.0)

    def cells(self, span: Span) -> tuple[int, list[Cell]]:
        """Return what a small strip shows: how many cells it has, and those that miss something.

        Args:
            span: what the report is about.
        """
        count = span.at_most(_CELLS, _ALL_CELLS)
        width = span.seconds / count
        since = seconds_of(span.since)
        missed: dict[int, dict[str, float]] = {}
        for start, end, cause, _, seconds in self.segments:
            first, last = (
                min(max(int((instant - since) / width), 0), count - 1) for instant in (start, end)
            )
            lasting = max(end - start, 0.001)
            dense = 1.0 if cause == BEFORE else seconds / lasting
            for number in range(first, last + 1):
                begin = max(start, since + number * width)
                inside = min(end, since + (number + 1) * width) - begin
                causes = missed.setdefault(number, {})
                causes[cause] = causes.get(cause, 0.0) + max(inside * dense, 0.0)
        return count, [
            # However short, a gap can be seen.
            (number, max(min(round(100 * sum(causes.values()) / width), 100), 1), _main(causes))
            for number, causes in sorted(missed.items())
        ]


def observed(
    connection: Connection, account: str, span: Span, *, interval: float | None, now: datetime
) -> Covered:
    """Find out what of a span the polls of an account observed.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        interval: seconds between its polls; None if it is not configured any more.
        now: the present instant.
    """
    first = connection.scalar(
        select(func.min(coverage.c.started_at)).where(coverage.c.account == account)
    )
    last = connection.scalar(select(accounts.c.observed_at).where(accounts.c.account == account))
    lag = recent(connection, account, interval)
    begun = first or connection.scalar(
        select(func.min(polls.c.started_at)).where(polls.c.account == account)
    )
    current = last is not None and now - last <= lag
    cause = None if current else present_cause(connection, account)
    ends = (first, last, begun)
    return _covered(connection, coverage, account, span, ends, lag=lag, cause=cause)


def heard(connection: Connection, account: str, span: Span, *, now: datetime) -> Covered | None:
    """Find out what of a span was heard on the stream; None if nobody ever tried to listen.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        now: the present instant.
    """
    first, latest, last = connection.execute(
        select(
            func.min(stream_coverage.c.started_at, type_=Instant),
            func.max(stream_coverage.c.started_at, type_=Instant),
            func.max(stream_coverage.c.ended_at, type_=Instant),
        ).where(stream_coverage.c.account == account)
    ).one()
    if last is not None and last - now > RECENT and latest <= now:
        last = latest  # as in `stream_gap`: the real end is unknown
    gap = stream_gap(connection, account, now)
    cause = None if gap is None else gap.cause
    if first is None and cause == NOT_LISTENING:
        return None
    ends = (first, last, first)
    return _covered(connection, stream_coverage, account, span, ends, lag=RECENT, cause=cause)


def _covered(
    connection: Connection,
    table: Table,
    account: str,
    span: Span,
    ends: tuple[datetime | None, datetime | None, datetime | None],
    *,
    lag: timedelta,
    cause: str | None,
) -> Covered:
    """Read the stretches of an account.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        table: of stretches.
        account: its name.
        span: what the report is about.
        ends: of the first and the latest stretch, and when there was something to cover.
        lag: what may pass after a stretch before that is a gap.
        cause: why it is not covered now; None if it is.
    """
    first, last, begun = ends
    start = min(max(begun or span.since, span.since), span.until)
    found = Covered(
        first=first,
        last=last,
        current=cause is None,
        cause=cause,
        seconds=(span.until - start).total_seconds(),
        seen=bytearray(span.parts),
    )
    if start - span.since > lag:  # more than what the first poll took
        found.segments.append((seconds_of(span.since), seconds_of(start), BEFORE, 0, 0.0))
    count = connection.scalar(
        select(func.count()).select_from(table).where(table.c.account == account)
    )
    segments = span.at_most(_SEGMENTS, _ALL_SEGMENTS)
    resolution = 0.0 if (count or 0) <= segments else span.seconds / segments
    for gap in _gaps(connection, table, account, span, found.seen):
        _add(found, span, resolution, gap)
    if last is None or span.until - last > lag:
        _add(found, span, resolution, (max(last or start, start), span.until, cause or BEFORE))
    found.longest.sort(reverse=True)
    return found


def _gaps(
    connection: Connection, table: Table, account: str, span: Span, seen: bytearray
) -> Iterator[tuple[datetime, datetime, str]]:
    """Yield the gaps that reach into a span, in order; note on the way which parts were seen."""
    rows = connection.execute(
        select(table.c.started_at, table.c.ended_at, table.c.gap_started_at, table.c.gap_cause)
        .where(
            table.c.account == account,
            table.c.ended_at >= span.since,
            or_(table.c.started_at <= span.until, table.c.gap_started_at < span.until),
        )
        .order_by(table.c.started_at),
        execution_options={"yield_per": 5_000},
    )
    for started_at, ended_at, gap_started_at, cause in rows:
        if started_at <= span.until:
            first, last = span.part(started_at), span.part(ended_at)
            seen[first : last + 1] = b"\1" * (last + 1 - first)
        if gap_started_at is not None and started_at > span.since:
            yield gap_started_at, started_at, cause


def _add(
    found: Covered, span: Span, resolution: float, gap: tuple[datetime, datetime, str]
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
        found.segments.append((start, end, cause, 1, round(missed, 3)))
        return
    first, _, main, count, before = latest
    # The last gap that is longer than all before it together names the cause.
    main = cause if missed > before else main
    found.segments[-1] = (first, end, main, count + 1, round(before + missed, 3))


def _main(causes: dict[str, float]) -> str:
    return max(causes, key=lambda cause: causes[cause])
