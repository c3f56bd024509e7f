"""Log lines on stderr, as text for people and journald or as JSON; `cli` configures them.

Everything in the package logs through the standard library, to loggers below `exporter`, a
sentence with its facts beside it: `logger.warning("the exchange failed", extra={"event": …})`.
"""

import contextlib
import logging
import os
import sys
from typing import TextIO

from exporter.logs.formatters import ROOT, JsonFormatter, TextFormatter, is_own


def configure(
    level: str,
    format: str,  # noqa: A002  # the configuration calls it so
    stream: TextIO | None = None,
) -> None:
    """Send all log lines to one stream; a later call replaces the stream, level and format.

    Args:
        level: DEBUG, INFO, WARNING or ERROR, in upper or lower case, for this package. Libraries
            never log below WARNING, because there they would name URLs and parameters.
        format: "text" or "json".
        stream: stderr if None.

    Raises:
        ValueError: the level or the format is unknown.
    """
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.addFilter(_is_wanted)
    with_traceback = level.upper() == "DEBUG"
    if format == "text":
        handler.setFormatter(TextFormatter(with_traceback, journald=_is_journald(stream)))
    elif format == "json":
        handler.setFormatter(JsonFormatter(with_traceback))
    else:
        raise ValueError(f"no log format is called {format!r}")
    logging.getLogger(ROOT).setLevel(level.upper())
    quiet_libraries()
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for earlier in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)


def quiet_libraries() -> None:
    """Silence libraries that log errors which they also raise, or events that are no fault.

    urllib3 quotes an unreadable header as it came, with a traceback; psycopg warns of a connection
    that is lost while rows are copied; APScheduler warns of each tick that a long poll skips.
    """
    for name in ("urllib3", "psycopg", "apscheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_journald(stream: TextIO | None) -> bool:
    """Return whether the stream is the one that systemd connected to the journal."""
    journal = os.environ.get("JOURNAL_STREAM")
    if not journal or stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


def _is_wanted(record: logging.LogRecord) -> bool:
    # A library may set the level of its own logger, as SQLAlchemy does when asked to echo.
    return record.levelno >= logging.WARNING or is_own(record.name)


class _Handler(logging.Handler):
    """A handler that ignores failures to write: nobody may be reading, and polls must go on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or nothing if stderr is closed or its disk is full."""
        with contextlib.suppress(Exception):  # there is no other place to say so
            _write(self._stream, f"{self.format(record)}\n")


def _write(stream: TextIO, line: str) -> None:
    try:
        descriptor = stream.fileno()
    except OSError:  # not a file
        stream.write(line)
        return
    # Writing bypasses the stream's buffer: the buffer would try again at exit, fail, and turn the
    # exit code into 120. Whole lines also keep the lines of several processes apart.
    rest = line.encode(stream.encoding, "backslashreplace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
