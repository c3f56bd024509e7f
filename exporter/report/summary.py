"""What a report says first: in one line whether all is recording, and one row per account."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from exporter.causes import POLL_GAP_CAUSES, STREAM_GAP_CAUSES
from exporter.report.coverage import BEFORE, Covered
from exporter.report.groups import Groups
from exporter.report.polls import Polls
from exporter.report.span import Span, seconds_of

State = Literal["never", "not_recording", "not_listening", "recording"]
_WORST_FIRST: tuple[State, ...] = ("never", "not_recording", "not_listening", "recording")

_NAMES = 3  # that the first line lists

CAUSES: dict[str, str] = dict(
    [
        *STREAM_GAP_CAUSES.items(),
        *POLL_GAP_CAUSES.items(),  # the causes that both know mean the same
        (BEFORE, "recording had not begun"),
    ]
)
"""Why something was not covered, and how a poll failed, for people."""

KINDS: dict[str, tuple[str, ...]] = {
    "off": ("not_running", "not_listening"),
    "exchange": ("unreachable", "timeout", "server_error", "rate_limited", "disconnected"),
    "refused": ("unauthorized", "rejected"),
    "lost": (
        "invalid_response",
        "invalid_message",
        "lost_messages",
        "overflow",
        "not_kept",
        "superseded",
    ),
    "before": (BEFORE,),
}
"""The causes that the page draws alike, because the same has to be done about them."""


@dataclass(slots=True, kw_only=True)
class Row:
    """What the table of accounts shows of one.

    Attributes:
        name: of the account.
        state: whether it is recording.
        polls, stream: the coverage; `stream` is None if its events were never listened to.
        cause: why it is not recording or not listening now; None if it is.
        facts: the row as the page has it.
    """

    name: str
    state: State
    polls: Covered
    stream: Covered | None
    cause: str | None
    facts: dict[str, Any]


def row(
    name: str,
    observed: Covered,
    heard: Covered | None,
    groups: Groups,
    polls: Polls,
    *,
    triggered: int,
    span: Span,
    now: datetime,
) -> Row:
    """Sum up an account.

    Args:
        name: of the account.
        observed: its coverage by polls.
        heard: its coverage by the stream; None if there was none.
        groups: its order groups in the span.
        polls: its polls in the span.
        triggered: how often its groups triggered in the span.
        span: what the report is about.
        now: the present instant.
    """
    state, cause = _state(observed, heard)
    never = observed.first is None
    since = heard if state in {"not_listening", "recording"} else observed
    return Row(
        name=name,
        state=state,
        polls=observed,
        stream=heard,
        cause=cause,
        facts={
            "name": name,
            "state": state,
            "said": _said(state, cause, None if since is None else since.last, now),
            "observed": observed.share,
            "heard": None if heard is None else heard.share,
            "cells": observed.cells(span),
            "heard_cells": None if heard is None else heard.cells(span),
            "groups": None if never else groups.now[0],
            "flagged": groups.now[1],
            "triggers": None if never and heard is None else triggered,
            "changes": None if never else sum(groups.total),
            "failures": polls.total - polls.outcomes.get("ok", 0),
            "polls": polls.total,
            "last": None if observed.last is None else seconds_of(observed.last),
        },
    )


def worst_first(row: Row) -> tuple[Any, ...]:
    """Return the key by which rows are sorted."""
    last = 0.0 if row.polls.last is None else row.polls.last.timestamp()
    shares = [each.share for each in (row.polls, row.stream) if each is not None]
    rank = _WORST_FIRST.index(row.state)
    return (rank, last if row.state == "not_recording" else 0.0, min(shares), row.name)


def verdict(rows: Sequence[Row], now: datetime) -> tuple[bool, str]:
    """Say in one line whether everything is recording, and if not, what is wrong.

    Args:
        rows: of all accounts, worst first.
        now: the present instant.

    Returns:
        Whether all is well, and the line.
    """
    if not rows:
        return False, "Nothing is recorded yet, and no account is configured."
    silent = [each for each in rows if each.state in {"never", "not_recording"}]
    if silent:
        what = "is not recording" if len(silent) == 1 else "are not recording"
        return False, _wrong(silent, rows, what, now, [each.polls.last for each in silent])
    deaf = [each for each in rows if each.state == "not_listening"]
    if deaf:
        what = "is recorded by polls alone" if len(deaf) == 1 else "are recorded by polls alone"
        lasts = [None if each.stream is None else each.stream.last for each in deaf]
        return False, _wrong(deaf, rows, what, now, lasts)
    heard = sum(each.stream is not None for each in rows)
    how = ", polls and events" if heard == len(rows) else ""
    if len(rows) == 1:
        return True, f"{rows[0].name} is recording{how}."
    return True, f"All {len(rows):,} accounts are recording{how}."


def _wrong(
    wrong: Sequence[Row],
    rows: Sequence[Row],
    what: str,
    now: datetime,
    lasts: Sequence[datetime | None],
) -> str:
    names = ", ".join(each.name for each in wrong[:_NAMES])
    if len(wrong) > _NAMES:
        names += f" and {len(wrong) - _NAMES:,} more"
    known = [last for last in lasts if last is not None]
    since = f"since {_time(min(known), now)}" if known else "never yet"
    if len(wrong) > 1 and known:
        since = f"the first {since}"
    causes = {each.cause for each in wrong}
    cause = causes.pop() if len(causes) == 1 else None
    why = f", {CAUSES.get(cause, cause)}" if cause else ""
    if len(rows) == 1:
        return f"{names} {what}, {since}{why}."
    counted = "accounts" if len(rows) > 1 else "account"
    return f"{len(wrong):,} of {len(rows):,} {counted} {what}: {names}, {since}{why}."


def _state(observed: Covered, heard: Covered | None) -> tuple[State, str | None]:
    if observed.last is None:
        return "never", observed.cause
    if not observed.current:
        return "not_recording", observed.cause
    if heard is not None and not heard.current:
        return "not_listening", heard.cause
    return "recording", None


def _said(state: State, cause: str | None, since: datetime | None, now: datetime) -> str:
    """Say how recording goes. `since` is the end of what is over; None if it never began."""
    if state == "recording":
        return "polls" if since is None else "polls and events"
    what = {
        "never": "never recorded",
        "not_recording": "not recording",
        "not_listening": "polls only, not listening",
    }[state]
    when = "" if since is None else f" since {_time(since, now)}"
    return f"{what}{when}: {CAUSES.get(cause or '', cause)}"


def _time(instant: datetime, now: datetime) -> str:
    """Return an instant in UTC, without the date if that is today's."""
    instant, now = instant.astimezone(UTC), now.astimezone(UTC)
    return f"{instant:%H:%M}" if instant.date() == now.date() else f"{instant:%Y-%m-%d %H:%M}"
