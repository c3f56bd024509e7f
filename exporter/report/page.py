"""Make the report: read each account, and write one page that needs nothing else and sends none.

The page shows a table of all accounts; what an account's own view needs is packed, and unpacked
when somebody opens it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from exporter import __version__
from exporter.reading.connect import read_only_transaction
from exporter.reading.output import opened
from exporter.report import span as spans
from exporter.report import summary
from exporter.report.counting import tally_of
from exporter.report.coverage import Covered, heard, observed
from exporter.report.embedding import Packed
from exporter.report.groups import groups
from exporter.report.polls import polls_of
from exporter.report.span import Span, seconds_of
from exporter.report.tally import Tally
from exporter.report.template import page
from exporter.report.timelines import add_timelines
from exporter.report.triggers import Triggers, groups_with_events, triggers_of

_LARGEST = 1_400_000  # bytes
_EMPTY = 80_000  # bytes of these that a page without accounts takes at most
_TIMELINES = 300_000  # bytes that the timelines of all accounts may take at least
_EMPTY_TIMELINES = 40  # bytes of an account that has none
_COARSEST = 8  # times as coarse as a page of so many accounts usually is


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What a report holds.

    Attributes:
        accounts: how many there are.
        accounts_shown: those of them that the page has room for.
        groups: order groups of these in the span.
        shown: those of them that can be found on the page.
        since, until: the span.
        unknown: accounts that were asked for, and are neither recorded nor configured.
    """

    accounts: int
    accounts_shown: int
    groups: int
    shown: int
    since: datetime
    until: datetime
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """An account on the page: its row, and what its own view shows except timelines."""

    row: summary.Row
    detail: dict[str, Any]
    tally: Tally
    triggers: Triggers


def report(
    url: str,
    output: Path | None,
    *,
    intervals: Mapping[str, float],
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    account_names: Sequence[str] = (),
) -> Reported:
    """Write the report as one file of HTML.

    Args:
        url: the database, as the configuration names it.
        output: a file to make or replace; None for standard output.
        intervals: for each configured account the seconds between its polls.
        now: the present instant.
        since: the beginning of the span; that of what is recorded if None.
        until: its end; `now` if None, unless recording ended long ago.
        account_names: only these accounts; all that are recorded or configured if empty.

    Raises:
        ValueError: the span is empty; its message is for who asked for it.
        ConfigurationError: there is no database.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed.
        OutputError: the file cannot be written.
    """
    # The snapshot ends first: the file takes its place only if all of it could be relied on.
    with opened(output) as sink, read_only_transaction(url) as connection:
        known = {*spans.recorded_accounts(connection), *intervals}
        names = list(dict.fromkeys(account_names)) or sorted(known)
        accounts, span, packed, shown = _fitting(
            connection,
            names,
            spans.choose(connection, names, since, until, now),
            intervals=intervals,
            now=now,
        )
        data = _data(accounts, span, now) | {"packed": packed.text()}
        reported = _add_timelines(connection, accounts[:shown], data, span)
        sink.write(page(data))
    return replace(reported, unknown=tuple(name for name in names if name not in known))


def _fitting(
    connection: Connection,
    names: Sequence[str],
    ends: tuple[datetime, datetime],
    *,
    intervals: Mapping[str, float],
    now: datetime,
) -> tuple[list[_Account], Span, Packed, int]:
    """Read all accounts, as finely as there is room for.

    Returns:
        The accounts, worst first; the span; all but their timelines, packed; and of how many that
        is, for the last may not fit.
    """
    coarseness = 1
    while True:
        span = spans.cut(
            *ends,
            sharing=max(len(names), 1) * coarseness,
            interval=min(intervals.values(), default=1.0),
        )
        accounts = [
            _account(connection, name, span, interval=intervals.get(name), now=now)
            for name in names
        ]
        accounts.sort(key=lambda account: summary.worst_first(account.row))
        packed, shown = Packed(), 0
        for account in accounts:
            line = account.row.facts | account.detail
            if not packed.add(line, room=_LARGEST - _EMPTY - _TIMELINES):
                break
            shown += 1
        if shown == len(accounts) or coarseness == _COARSEST:
            return accounts, span, packed, shown
        coarseness *= 2


def _data(accounts: Sequence[_Account], span: Span, now: datetime) -> dict[str, Any]:
    """Return what the page says of all accounts, without them."""
    well, line = summary.verdict([account.row for account in accounts], now)
    return {
        "version": __version__,
        "made": seconds_of(now),
        "since": seconds_of(span.since),
        "until": seconds_of(span.until),
        "grid": {"start": span.start, "width": span.width, "parts": span.parts},
        "causes": summary.CAUSES,
        "kinds": summary.KINDS,
        "well": well,
        "verdict": line,
        "count": len(accounts),
        "timelines": [],
    }


def _account(
    connection: Connection,
    name: str,
    span: Span,
    *,
    interval: float | None,
    now: datetime,
) -> _Account:
    seen = observed(connection, name, span, interval=interval, now=now)
    listened = heard(connection, name, span, now=now)
    named = groups_with_events(connection, name)
    tally = tally_of(connection, name, span, named)
    counted = groups(tally, span, seen.seen)
    polls = polls_of(connection, name, span)
    triggers = triggers_of(connection, name, span, tally, named)
    triggers_over_time = triggers.by_part
    triggered = sum(told + shown for _, told, shown in triggers_over_time)
    row = summary.row(name, seen, listened, counted, polls, triggered=triggered, span=span, now=now)
    detail = {
        "by_polls": _strip(seen),
        "by_stream": None if listened is None else _strip(listened),
        "standing": counted.standing,
        "flagged_over_time": counted.flagged,
        "changes_over_time": counted.changes,
        "triggers_over_time": triggers_over_time,
        "kept_from": _kept_from(seen, polls.first, span),
        "failed_width": polls.failed_width,
        "failed": polls.failed,
        "taken": polls.taken,
        "skew": polls.skew,
        "versions": polls.versions,
        "messages": polls.messages,
    }
    return _Account(row=row, detail=detail, tally=tally, triggers=triggers)


def _strip(covered: Covered) -> dict[str, Any]:
    return {
        "segments": covered.segments,
        "longest": covered.longest,
        "gaps": covered.gaps,
        "missed": covered.missed,
    }


def _kept_from(seen: Covered, first: datetime | None, span: Span) -> float | None:
    """Return when the polls begin that are still kept, if others were pruned; else None."""
    first_seen = seen.seen.find(1)
    first_kept = span.parts if first is None else span.part(first)
    if first_seen < 0 or (first_kept - first_seen) * span.width <= 3_600:  # noqa: PLR2004  # an hour
        return None
    return seconds_of(first or span.until)


def _add_timelines(
    connection: Connection, accounts: Sequence[_Account], data: dict[str, Any], span: Span
) -> Reported:
    """Add to each account the timelines for which there is room; what one leaves the next has."""
    room = _LARGEST - len(page(data)) - _EMPTY_TIMELINES * len(accounts)
    total = shown = 0
    for number, account in enumerate(accounts):
        packed = Packed()
        share = room // (len(accounts) - number)
        found = add_timelines(
            connection,
            account.row.name,
            span,
            account.tally,
            account.triggers,
            packed=packed,
            room=share,
        )
        room -= packed.size
        total += found.groups
        shown += found.shown
        data["timelines"].append([found.groups, found.shown, packed.text()])
    return Reported(
        accounts=data["count"],
        accounts_shown=len(accounts),
        groups=total,
        shown=shown,
        since=span.since,
        until=span.until,
    )
