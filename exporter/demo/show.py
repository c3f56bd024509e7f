"""What the demo shows while it runs: lines for the exchange and the exporter, and a countdown.

`run` feeds it; `summary` writes what stands below.
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

Records: TypeAlias = "queue.SimpleQueue[logging.LogRecord]"

WIDTH = 80
"""Columns that no line exceeds, but for paths."""

_TEXT = WIDTH - len("12:34:56  exchange  ")
_BAR = 20
_ECHO = "^C"  # What a terminal adds to the last line when Ctrl-C is pressed.


class Display:
    """Stdout: lines that stay and, on a terminal, a last line that does not.

    It is for one thread. Everything is ASCII, and nothing but a carriage return moves the cursor,
    so that every terminal can show it.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        # None leaves it to Click, which takes colours out for what is no terminal.
        self._color = False if os.environ.get("NO_COLOR") else None
        self._status = ""

    def line(self, text: str = "") -> None:
        """Print a line, above the status."""
        status = self._status
        self.status("")
        click.echo(text, color=self._color)
        self.status(status)

    def happened(self, at: float, who: str, text: str, **style: bool | str) -> None:
        """Print what somebody did, at an instant in seconds since the epoch."""
        time = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
        color = "cyan" if who == "exchange" else "green"
        self.line(
            f"{click.style(time, dim=True)}  {click.style(who, fg=color)}"
            f"  {click.style(cut(text, _TEXT), **style)}"  # type: ignore[arg-type]  # Click's own keywords
        )

    def countdown(self, passed: float, seconds: float) -> None:
        """Show how far the demo has come."""
        share = min(passed / seconds, 1.0)
        left = seconds - passed
        what = f"{left:.0f} s left" if left > 0 else "waiting for the exporter to catch up"
        self.status(f"[{'#' * round(share * _BAR):<{_BAR}}] {what}; Ctrl-C ends it now")

    def status(self, text: str) -> None:
        """Replace the last line of a terminal; an empty text takes it away."""
        if not self._is_terminal or text == self._status:
            return
        shown = text[: shutil.get_terminal_size().columns - len(_ECHO) - 1]
        blank = " " * (len(self._status) + len(_ECHO)) if self._status else ""
        click.echo(f"\r{blank}\r{shown}", nl=False, color=self._color)
        self._status = shown


class Narrator:
    """Tells what the exporter did, from what it logs.

    Args:
        display: to tell it on.
        polls: how many the database holds already: its number is the next poll's.
        groups: how many it knows already.

    Attributes:
        observed: polls that saw all groups, since the start.
    """

    def __init__(self, display: Display, *, polls: int, groups: int) -> None:
        self.observed = 0
        self._display = display
        self._poll = polls
        self._known = groups
        self._missing = 0

    def tell_all(self, records: Records) -> None:
        """Tell of the records that have come since the last call."""
        with suppress(queue.Empty):
            while True:
                self._tell(records.get_nowait())

    def _tell(self, record: logging.LogRecord) -> None:
        facts = vars(record)
        match facts.get("event"):
            case "poll_ok":
                self._tell_observation(record, facts["groups"], facts["added"], facts["changed"])
            case "poll_failed":
                self._poll += 1
                self._say(
                    record,
                    f"poll {self._poll} failed ({_cause(facts)}); history left as it is",
                    fg="red",
                )
            case "attempt_failed":
                # Of the last attempt the poll's own record tells.
                if facts["next"] != "give up":
                    text = f"poll {self._poll + 1}: {_cause(facts)}; {facts['next']}"
                    self._say(record, text, fg="yellow")
            case _ if record.levelno >= logging.WARNING:
                text = record.getMessage()
                if record.exc_info:
                    text += f": {record.exc_info[1]}"
                self._say(record, text, fg="red")

    def _tell_observation(
        self, record: logging.LogRecord, groups: int, added: int, changed: int
    ) -> None:
        self._poll += 1
        self.observed += 1
        removed: int = vars(record)["removed"]
        self._known += added - removed
        missing = self._known - groups
        back = self._missing - removed - missing
        self._missing = missing
        news = [
            f"{count} {what}"
            for count, what in (
                (added, "new"),
                (changed, "changed"),
                (removed, "gone"),
                (back, "back"),
                (missing, "missing for now"),
            )
            if count > 0
        ]
        self._say(
            record,
            f"poll {self._poll}: {groups} groups, {', '.join(news) or 'as before'}",
            **{"bold" if news else "dim": True},
        )

    def _say(self, record: logging.LogRecord, text: str, **style: bool | str) -> None:
        self._display.happened(record.created, "exporter", text, **style)


@contextmanager
def listening() -> Iterator[Records]:
    """Collect what the package logs, from INFO on, in place of sending it to stderr."""
    records: Records = queue.SimpleQueue()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.put(record)

    logger = logging.getLogger("exporter")
    collector, level = Collector(), logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _cause(facts: dict[str, object]) -> str:
    """Why a poll or an attempt failed, in a few words: "503 server error", "unreachable"."""
    words = [facts["http_status"], str(facts["outcome"]).replace("_", " ")]
    return " ".join(str(word) for word in words if word is not None)
