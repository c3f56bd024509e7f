"""The demo's display while it runs: lines of the exchange and the exporter, and a countdown.

`run` feeds it, and `summary` prints the results below it.
"""

import logging
import os
import queue
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeAlias

import click

from exporter.hooks import Event, EventsRecorded, PollFinished

_Happening: TypeAlias = PollFinished | EventsRecorded | logging.LogRecord

WIDTH = 80
"""The width in columns that no line exceeds, unless it holds a path."""

_TEXT = WIDTH - len("12:34:56  exchange  ")
_BAR = 20
_ECHO = "^C"  # A terminal adds this to the last line when Ctrl-C is pressed.


class Display:
    """Lines on stdout and, on a terminal, a status line below them.

    It is for one thread. Everything is ASCII, and nothing but a carriage return moves the cursor,
    so that every terminal can show it.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        # None lets Click decide, which removes colors unless stdout is a terminal.
        self._color = False if os.environ.get("NO_COLOR") else None
        self._status = ""

    def line(self, text: str = "") -> None:
        """Print a line, above the status."""
        status = self._status
        self.status("")
        click.echo(text, color=self._color)
        self.status(status)

    def happened(self, at: float, who: str, text: str, **style: bool | str) -> None:
        """Print what `who` did, at an instant in seconds since the epoch."""
        time = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
        color = "cyan" if who == "exchange" else "green"
        self.line(
            f"{click.style(time, dim=True)}  {click.style(who, fg=color)}"
            f"  {click.style(cut(text, _TEXT), **style)}"  # type: ignore[arg-type]  # Click's own keywords
        )

    def countdown(self, passed: float, seconds: float) -> None:
        """Show the demo's progress."""
        share = min(passed / seconds, 1.0)
        left = seconds - passed
        what = f"{left:.0f} s left" if left > 0 else "waiting for the exporter to catch up"
        self.status(f"[{'#' * round(share * _BAR):<{_BAR}}] {what}; Ctrl-C ends it now")

    def status(self, text: str) -> None:
        """Replace the status line of a terminal; an empty text removes it."""
        if not self._is_terminal or text == self._status:
            return
        shown = text[: shutil.get_terminal_size().columns - len(_ECHO) - 1]
        blank = " " * (len(self._status) + len(_ECHO)) if self._status else ""
        click.echo(f"\r{blank}\r{shown}", nl=False, color=self._color)
        self._status = shown


class Feed(logging.Handler):
    """A collector of what the exporter did: polls from its hooks, warnings from its log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._happenings: queue.SimpleQueue[_Happening] = queue.SimpleQueue()

    def receive(self, event: Event) -> None:
        """Collect a poll, or events of the exchange."""
        if isinstance(event, PollFinished | EventsRecorded):
            self._happenings.put(event)

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a warning, unless a hook reports the same."""
        if vars(record).get("event") != "poll_failed":
            self._happenings.put(record)

    def collected(self) -> Iterator[_Happening]:
        """Yield what has been collected since the last call."""
        with suppress(queue.Empty):
            while True:
                yield self._happenings.get_nowait()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Collect what the package logs, in place of sending it to stderr."""
        logger = logging.getLogger("exporter")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


class Narrator:
    """A narrator of what the exporter did.

    Args:
        display: the display to print on.
        polls: the number of polls in the database, from which the numbering continues.

    Attributes:
        observed: the number of successful polls since the start.
    """

    def __init__(self, display: Display, *, polls: int) -> None:
        self.observed = 0
        self._display = display
        self._poll = polls
        self._missing = 0

    def tell_all(self, feed: Feed) -> None:
        """Print what the feed has collected since the last call."""
        for happening in feed.collected():
            match happening:
                case PollFinished():
                    self._tell_poll(happening)
                case EventsRecorded():
                    self._tell_events(happening)
                case _:
                    self._tell_record(happening)

    def _tell_record(self, record: logging.LogRecord) -> None:
        facts = vars(record)
        if facts.get("event") == "attempt_failed":
            cause = _cause(facts["http_status"], facts["outcome"])
            self._say(
                record.created, f"poll {self._poll + 1}: {cause}; {facts['next']}", fg="yellow"
            )
            return
        text = record.getMessage()
        if record.exc_info:
            text += f": {record.exc_info[1]}"
        self._say(record.created, text, fg="red")

    def _tell_events(self, recorded: EventsRecorded) -> None:
        for event in recorded.events:
            late = ""
            if event.event_at is not None:
                milliseconds = (recorded.recorded_at - event.event_at).total_seconds() * 1000
                late = f", recorded {milliseconds:.0f} ms later"
            what = event.event_type.replace("_", " ")
            text = f"heard: group {event.order_group_id[:8]} {what}{late}"
            self._say(recorded.recorded_at.timestamp(), text)

    def _tell_poll(self, poll: PollFinished) -> None:
        at = poll.finished_at.timestamp()
        if poll.outcome == "ok" and poll.groups is not None:
            self._tell_observation(at, poll)
        elif poll.outcome not in {"ok", "superseded"}:
            self._poll += 1
            cause = _cause(poll.http_status, poll.outcome)
            self._say(at, f"poll {self._poll} failed ({cause}); history left as it is", fg="red")

    def _tell_observation(self, at: float, poll: PollFinished) -> None:
        self._poll += 1
        self.observed += 1
        removed, missing = poll.removed or 0, poll.missing or 0
        back = self._missing - removed - missing
        self._missing = missing
        news = [
            f"{count} {what}"
            for count, what in (
                (poll.found, "found"),
                (poll.added or 0, "new"),
                (poll.changed or 0, "changed"),
                (removed, "gone"),
                (back, "back"),
                (missing, "missing for now"),
            )
            if count > 0
        ]
        self._say(
            at,
            f"poll {self._poll}: {poll.groups} groups, {', '.join(news) or 'as before'}",
            **{"bold" if news else "dim": True},
        )

    def _say(self, at: float, text: str, **style: bool | str) -> None:
        self._display.happened(at, "exporter", text, **style)


def cut(text: str, width: int) -> str:
    """Return the text, cut to the width."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _cause(http_status: int | None, outcome: str) -> str:
    """Return why a poll or an attempt failed, in a few words: "503 server error", "unreachable"."""
    words = outcome.replace("_", " ")
    return words if http_status is None else f"{http_status} {words}"
