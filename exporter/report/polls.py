"""How an account's polls went in each part of a span: failures, time taken, clock, version.

One query adds them up by part, outcome and version; another finds what the failures said.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from exporter.history.schema import Instant, polls
from exporter.report.span import Span, milliseconds, part_of, seconds_of

_HOUR = 3_600
_PARTS_TOO_FEW = 12  # hours, below which failures are shown in parts shorter than that
_MESSAGES, _ALL_MESSAGES = 12, 400  # of one account, and of all
_MESSAGE_LENGTH = 300


@dataclass(slots=True, kw_only=True)
class Polls:
    """The polls of one account in a span.

    Attributes:
        total: how many are kept.
        first: when the first of them began; None if there is none.
        outcomes: how many ended in which way.
        failed_width: seconds of a part of `failed`.
        failed: start of the part in seconds since 1970, outcome, polls; in order of time.
        taken: for each part of the span, the mean and the longest time that its successful polls
            took, in milliseconds; None where there was none.
        skew: for each part of the span, this machine's clock minus the exchange's in
            milliseconds: the least, the mean and the greatest; None where it is not known.
        versions: the exporter's version, its first and last poll in seconds since 1970, polls; in
            the order in which they came.
        messages: what failures said: outcome, HTTP status, text, polls, the last in seconds since
            1970; the most frequent first.
    """

    total: int = 0
    first: datetime | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    failed_width: int = _HOUR
    failed: list[tuple[int, str, int]] = field(default_factory=list)
    taken: list[tuple[int, int] | None] = field(default_factory=list)
    skew: list[tuple[int, int, int] | None] = field(default_factory=list)
    versions: list[tuple[str, float, float, int]] = field(default_factory=list)
    messages: list[tuple[str, int | None, str, int, float]] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    """Sums over the polls of one part."""

    polls: int = 0
    taken: float = 0.0
    longest: float = 0.0
    measured: int = 0
    skew: float = 0.0
    least: int | None = None
    greatest: int | None = None


def polls_of(connection: Connection, account: str, span: Span) -> Polls:
    """Add up an account's polls over a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
    """
    found = Polls()
    if span.width < _HOUR <= span.seconds / _PARTS_TOO_FEW:
        found.failed_width = _HOUR
    else:
        found.failed_width = span.width
    parts = [_Part() for _ in range(span.parts)]
    failed: dict[tuple[int, str], int] = {}
    versions: dict[str, tuple[datetime, datetime, int]] = {}
    for row in _sums(connection, account, span):
        found.total += row.polls
        found.outcomes[row.outcome] = found.outcomes.get(row.outcome, 0) + row.polls
        first, last, count = versions.get(row.version, (row.first, row.last, 0))
        versions[row.version] = (min(first, row.first), max(last, row.last), count + row.polls)
        found.first = row.first if found.first is None else min(found.first, row.first)
        _add(parts[row.part], row)
        if row.outcome != "ok":
            start = span.start + row.part * span.width
            key = (start - start % found.failed_width, row.outcome)
            failed[key] = failed.get(key, 0) + row.polls
    found.failed = [(start, outcome, count) for (start, outcome), count in sorted(failed.items())]
    found.versions = sorted(
        ((each, seconds_of(a), seconds_of(z), count) for each, (a, z, count) in versions.items()),
        key=lambda version: version[1],
    )
    found.taken = [
        (round(part.taken / part.polls), round(part.longest)) if part.polls else None
        for part in parts
    ]
    found.skew = [
        (part.least, round(part.skew / part.measured), part.greatest)
        if part.least is not None and part.greatest is not None
        else None
        for part in parts
    ]
    found.messages = _messages(connection, account, span)
    return found


def _sums(connection: Connection, account: str, span: Span) -> Any:
    part = part_of(connection, polls.c.started_at, span).label("part")
    taken = milliseconds(connection, polls.c.started_at, polls.c.finished_at)
    return connection.execute(
        select(
            part,
            polls.c.outcome,
            polls.c.exporter_version.label("version"),
            func.count().label("polls"),
            func.sum(taken).label("taken"),
            func.max(taken).label("longest"),
            func.count(polls.c.clock_skew_ms).label("measured"),
            func.sum(polls.c.clock_skew_ms).label("skew"),
            func.min(polls.c.clock_skew_ms).label("least"),
            func.max(polls.c.clock_skew_ms).label("greatest"),
            func.min(polls.c.started_at, type_=Instant).label("first"),
            func.max(polls.c.started_at, type_=Instant).label("last"),
        )
        .where(
            polls.c.account == account,
            polls.c.started_at >= span.since,
            polls.c.started_at <= span.until,
        )
        .group_by(part, polls.c.outcome, polls.c.exporter_version),
        execution_options={"yield_per": 5_000},
    )


def _add(part: _Part, row: Any) -> None:
    if row.outcome == "ok":
        part.polls += row.polls
        part.taken += float(row.taken)
        part.longest = max(part.longest, float(row.longest))
    if row.measured:
        part.measured += row.measured
        part.skew += float(row.skew)
        part.least = row.least if part.least is None else min(part.least, row.least)
        part.greatest = row.greatest if part.greatest is None else max(part.greatest, row.greatest)


def _messages(
    connection: Connection, account: str, span: Span
) -> list[tuple[str, int | None, str, int, float]]:
    said = (polls.c.outcome, polls.c.http_status, polls.c.error_code, polls.c.error_message)
    last = func.max(polls.c.started_at, type_=Instant)
    rows = connection.execute(
        select(*said, func.count(), last)
        .where(
            polls.c.account == account,
            polls.c.started_at >= span.since,
            polls.c.started_at <= span.until,
            polls.c.outcome != "ok",
        )
        .group_by(*said)
        .order_by(func.count().desc(), last.desc())
        .limit(span.at_most(_MESSAGES, _ALL_MESSAGES))
    )
    return [
        (
            outcome,
            status,
            ": ".join(each for each in (code, message) if each)[:_MESSAGE_LENGTH],
            count,
            seconds_of(when),
        )
        for outcome, status, code, message, count, when in rows
    ]
