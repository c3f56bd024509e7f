"""Makes the report: reads each account, and writes one page that needs nothing else and sends none.

The page is `static/page.html` with a style, a script and the data as JSON. Its content security
policy allows exactly these, by their hashes, and no connection to anywhere.
"""

import base64
import hashlib
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
from exporter.report.coverage import Observed, observed
from exporter.report.embedding import as_json
from exporter.report.groups import groups
from exporter.report.polls import Polls, polls_of
from exporter.report.span import Span, seconds_of
from exporter.report.timelines import lanes

_STATIC = Path(__file__).parent / "static"
_STYLES = ("uplot/uPlot-1.6.32.min.css", "page.css")
_SCRIPTS = (
    "uplot/uPlot-1.6.32.iife.min.js",
    "document.js",
    "time.js",
    "paint.js",
    "charts.js",
    "lanes.js",
    "page.js",
)
_LARGEST = 1_400_000  # bytes
_LANES = 300_000  # bytes of these that the lanes of all accounts may take at least
_EMPTY_LANES = 100  # bytes of an account that has none
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
        data, span = _fitting(
            connection,
            names,
            spans.choose(connection, names, since, until, now),
            intervals=intervals,
            now=now,
        )
        reported = _with_lanes(connection, data, span)
        sink.write(_page(data))
    return replace(reported, unknown=tuple(name for name in names if name not in known))


def _fitting(
    connection: Connection,
    names: Sequence[str],
    ends: tuple[datetime, datetime],
    *,
    intervals: Mapping[str, float],
    now: datetime,
) -> tuple[dict[str, Any], Span]:
    """All that the page shows except lanes, as fine as there is room for."""
    largest = _LARGEST - _LANES
    coarseness = 1
    while True:
        span = spans.cut(
            *ends,
            sharing=max(len(names), 1) * coarseness,
            interval=min(intervals.values(), default=1.0),
        )
        data = _data(connection, names, span, intervals=intervals, now=now)
        excess = len(_page(data)) - largest
        if excess <= 0 or coarseness == _COARSEST:
            break
        coarseness *= 2
    accounts = data["accounts"]
    while excess > 0 and len(accounts) > 1:
        last = accounts.pop()
        data["left_out"] += 1
        excess -= len(as_json(last)) + 1
    return data, span


def _data(
    connection: Connection,
    names: Sequence[str],
    span: Span,
    *,
    intervals: Mapping[str, float],
    now: datetime,
) -> dict[str, Any]:
    """All that the page shows except lanes."""
    return {
        "version": __version__,
        "made": seconds_of(now),
        "since": seconds_of(span.since),
        "until": seconds_of(span.until),
        "grid": {"start": span.start, "width": span.width, "parts": span.parts},
        "causes": summary.CAUSES,
        "left_out": 0,
        "accounts": [
            _account(connection, name, span, interval=intervals.get(name), now=now)
            for name in names
        ],
    }


def _account(
    connection: Connection, name: str, span: Span, *, interval: float | None, now: datetime
) -> dict[str, Any]:
    coverage = observed(connection, name, span, interval=interval, now=now)
    counted = groups(connection, name, span, coverage.seen)
    polls = polls_of(connection, name, span)
    return {
        "name": name,
        "sentences": summary.sentences(coverage, counted, polls, span, now=now),
        "facts": _facts(coverage, polls, counted.now[0], sum(counted.total)),
        "segments": coverage.segments,
        "longest": coverage.longest,
        "gaps": coverage.gaps,
        "standing": counted.standing,
        "on": counted.on,
        "changes": counted.changes,
        "failed_width": polls.failed_width,
        "failed": polls.failed,
        "taken": polls.taken,
        "skew": polls.skew,
        "versions": polls.versions,
        "messages": polls.messages,
    }


def _facts(
    coverage: Observed, polls: Polls, standing: int, changes: int
) -> list[tuple[str, str, str]]:
    """The few numbers that stand largest: what, how much, whether that is good."""
    missed = sum(coverage.missed.values())
    never = coverage.first is None
    failed = polls.total - polls.outcomes.get("ok", 0)
    return [
        ("Recording", "yes" if coverage.recording else "no", _mood(good=coverage.recording)),
        (
            "Observed",
            "never" if never else summary.share(missed, coverage.seconds),
            _mood(good=not missed and not never),
        ),
        ("Order groups", "unknown" if never else f"{standing:,}", "plain"),
        ("Changes", "unknown" if never else f"{changes:,}", "plain"),
        ("Failed polls", f"{failed:,} of {polls.total:,}", "plain"),
    ]


def _mood(*, good: bool) -> str:
    return "good" if good else "bad"


def _with_lanes(connection: Connection, data: dict[str, Any], span: Span) -> Reported:
    """Add to each account the lanes for which there is room; what one leaves goes to the next."""
    accounts = data["accounts"]
    room = _LARGEST - len(_page(data)) - _EMPTY_LANES * len(accounts)
    total = shown = 0
    for number, account in enumerate(accounts):
        found = lanes(connection, account["name"], span, room=room // (len(accounts) - number))
        room -= found.size
        total += found.groups
        shown += len(found.lanes)
        account |= {
            "groups": found.groups,
            "tick": found.tick,
            "states": list(found.states),
            "lanes": found.lanes,
        }
    return Reported(
        accounts=len(accounts) + data["left_out"],
        accounts_shown=len(accounts),
        groups=total,
        shown=shown,
        since=span.since,
        until=span.until,
    )


def _page(data: dict[str, Any]) -> bytes:
    style = "\n".join(_static(name) for name in _STYLES)
    script = "\n".join(_static(name) for name in _SCRIPTS)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",  # the empty icon, so that none is asked for
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = _static("page.html")
    for place, content in (
        ("{{policy}}", policy),
        ("{{style}}", style),
        ("{{script}}", script),
        ("{{data}}", as_json(data)),  # last: what it holds is not looked at again
    ):
        before, after = page.split(place)
        page = f"{before}{content}{after}"
    return page.encode()


def _static(name: str) -> str:
    return (_STATIC / name).read_text("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
