"""Format the status of accounts: a table for people, JSON for programs."""

import json
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from exporter.causes import NOT_LISTENING, explain
from exporter.history.schema import to_text
from exporter.reading.status import AccountStatus
from exporter.reading.stream_status import StreamStatus

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_HEADINGS = ("ACCOUNT", "STATE", "OBSERVED", "GROUPS", "CHANGES 24H", "LAST POLL")
_NUMBERS = {3, 4}  # columns that are aligned to the right


def render_table(statuses: Sequence[AccountStatus]) -> str:
    """Return a table with a line for each account, and lines below it for remarks."""
    rows = [_row(each) for each in statuses]
    widths = [max(map(_width, cells)) for cells in zip(_HEADINGS, *rows, strict=True)]
    lines = [_aligned(_HEADINGS, widths)]
    for each, row in zip(statuses, rows, strict=True):
        lines.append(_aligned(row, widths))
        lines += [f"  {remark}" for remark in _remarks(each)]
    return "\n".join(lines)


def to_json(statuses: Sequence[AccountStatus]) -> str:
    """Return one JSON object, `accounts` in the order given; instants as text, ages in seconds."""
    text = json.dumps({"accounts": [_object(each) for each in statuses]})
    # With an indent, json.dumps would encode in Python: ten times as slow.
    return msgspec.json.format(text, indent=2)


def _row(each: AccountStatus) -> tuple[str, ...]:
    poll = each.last_poll
    state = "never" if each.age is None else "stale" if each.stale else "ok"
    return (
        each.account,
        state,
        "-" if each.age is None else _ago(each.age),
        "-" if each.groups is None else str(each.groups),
        str(each.changes),
        "-" if poll is None else f"{_ago(poll.age)}: {poll.outcome}",
    )


def _remarks(each: AccountStatus) -> list[str]:
    remarks = []
    if each.gap is not None:
        since = "never observed"
        if each.gap.since is not None:
            since = f"not observed since {to_text(each.gap.since)}"
        remarks.append(f"{since}, because {explain(each.gap.cause)}")
    if each.missing:
        verb = "is" if each.missing == 1 else "are"
        remarks.append(f"{each.missing} of the groups {verb} missing, to be confirmed")
    if each.last_poll is not None and each.last_poll.error is not None:
        remarks.append(f"last poll: {each.last_poll.error}")
    remarks += _stream_remarks(each.stream)
    if not each.stream_enabled:
        remarks.append("the configuration switches its stream off")
    if each.spooled:
        remarks.append(f"waiting for the database in the spool: {each.spooled}")
    return remarks


def _stream_remarks(stream: StreamStatus) -> list[str]:
    remarks = []
    if stream.connected_since is not None:
        heard = "no event yet"
        if stream.last_event_at is not None:
            heard = f"last event {to_text(stream.last_event_at)}"
        remarks.append(f"listening since {to_text(stream.connected_since)}, {heard}")
    elif stream.gap is not None and stream.gap.since is not None:
        cause = explain(stream.gap.cause)
        remarks.append(f"not listening since {to_text(stream.gap.since)}, because {cause}")
    elif stream.gap is not None and stream.gap.cause != NOT_LISTENING:
        remarks.append(f"never listened, because {explain(stream.gap.cause)}")
    if stream.triggers:
        remarks.append(f"triggers in 24 h: {stream.triggers}")
    return remarks


def _object(each: AccountStatus) -> dict[str, Any]:
    poll, gap = each.last_poll, each.gap
    return {
        "account": each.account,
        "stale": each.stale,
        "observed_at": _instant(each.observed_at),
        "age_seconds": each.age,
        "max_age_seconds": each.max_age,
        "groups": each.groups,
        "groups_missing": each.missing,
        "changes_24h": each.changes,
        "last_poll": poll
        and {
            "started_at": to_text(poll.started_at),
            "age_seconds": poll.age,
            "outcome": poll.outcome,
            "error": poll.error,
        },
        "gap": gap and {"since": _instant(gap.since), "cause": gap.cause},
        "spooled": each.spooled,
        "stream": _stream_object(each.stream) | {"enabled": each.stream_enabled},
    }


def _stream_object(stream: StreamStatus) -> dict[str, Any]:
    gap = stream.gap
    return {
        "connected_since": _instant(stream.connected_since),
        "last_event_at": _instant(stream.last_event_at),
        "gap": gap and {"since": _instant(gap.since), "cause": gap.cause},
        "triggers_24h": stream.triggers,
    }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else to_text(instant)


def _ago(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds // 1:.0f} s ago"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        padding = " " * (width - _width(cell))
        padded.append(padding + cell if index in _NUMBERS else cell + padding)
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )
