"""Log lines on stderr, as text for people and journald or as JSON; `cli` configures them once.

Everything in the package logs through the standard library, to loggers below `exporter`, a
sentence with its facts beside it: `logger.warning("the exchange failed", extra={"event": …})`.
"""

import contextlib
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

_ROOT = "exporter"

# A log line is read by people and stored by tools that cut long ones; a traceback, which only DEBUG
# shows, is worth more room.
_LINE = 2_000
_LINE_WITH_TRACEBACK = 20_000
_MESSAGE = 1_000
_FIELD = 300
_TRACEBACK = 12_000
_NAME = 100

# journald takes the priority from the beginning of a line, as syslog counts them.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7

# Replacing a shorter secret would shred the lines, and tell it to whoever looks at the holes.
_SHORTEST_SECRET = 4

# What every reader of JSON takes for the same number.
_LARGEST_INTEGER = 2**53

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_BARE_VALUE = re.compile(r"[^\s\"'=\\]+")


class _Secrets:
    """The texts that no line may hold: thousands of accounts have thousands of them."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, ...]] = {}  # by how they begin, the longest first

    def add(self, secret: str) -> None:
        if len(secret) < _SHORTEST_SECRET:
            return
        # Libraries repeat a secret as it is, as a URL has it, or as Python spells it.
        encoded = quote(secret.encode("utf-8", "surrogateescape"), safe="")
        for form in {secret, encoded, repr(secret)[1:-1]}:
            head = form[:_SHORTEST_SECRET]
            known = {form, *self._forms.get(head, ())}
            # So that a secret within a secret leaves nothing of the longer one.
            self._forms[head] = tuple(sorted(known, key=len, reverse=True))

    def hide(self, text: str) -> str:
        shown: list[str] = []
        done = at = 0
        while self._forms and at <= len(text) - _SHORTEST_SECRET:
            for form in self._forms.get(text[at : at + _SHORTEST_SECRET], ()):
                if text.startswith(form, at):
                    shown += (text[done:at], "***")
                    done = at = at + len(form)
                    break
            else:
                at += 1
        return "".join((*shown, text[done:])) if shown else text


_secrets = _Secrets()


def protect(secret: str) -> None:
    """Have every later line show `***` where this text would stand, as it is or encoded.

    A last line of defence: what is secret should not be logged in the first place. Secrets of fewer
    than four characters are let be.
    """
    _secrets.add(secret)


def hide(text: str) -> str:
    """The text with `***` in place of each secret, for what is told elsewhere than in the log."""
    return _secrets.hide(text)


def configure(
    level: str,
    format: str,  # noqa: A002 - as the configuration calls it
    stream: TextIO | None = None,
) -> None:
    """Send all log lines to one stream, replacing what an earlier call arranged.

    Args:
        level: DEBUG, INFO, WARNING or ERROR, in whatever case, for this package; the libraries
            never log below WARNING, where they would name URLs and parameters.
        format: "text" or "json".
        stream: stderr if None.

    Raises:
        ValueError: if the level or the format is unknown.
    """
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.addFilter(_is_wanted)
    with_traceback = level.upper() == "DEBUG"
    if format == "text":
        handler.setFormatter(_TextFormatter(with_traceback, journald=_is_journald(stream)))
    elif format == "json":
        handler.setFormatter(_JsonFormatter(with_traceback))
    else:
        raise ValueError(f"no log format is called {format!r}")
    logging.getLogger(_ROOT).setLevel(level.upper())
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for earlier in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)


def _is_journald(stream: TextIO | None) -> bool:
    """Whether the stream is the very one that systemd connected to the journal."""
    journal = os.environ.get("JOURNAL_STREAM")
    if not journal or stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


def _is_own(name: str) -> bool:
    return name == _ROOT or name.startswith(f"{_ROOT}.")


def _is_wanted(record: logging.LogRecord) -> bool:
    # A library may set the level of its own logger, as SQLAlchemy does when asked to echo.
    return record.levelno >= logging.WARNING or _is_own(record.name)


class _Handler(logging.Handler):
    """Writes lines; that nobody can read them any more must not stop the polls."""

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
    # Past the stream's buffer: what it could not write it would try again at exit, and turn the
    # exit code into 120. It also keeps the lines of several processes apart.
    rest = line.encode(stream.encoding, "backslashreplace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class _Formatter(logging.Formatter):
    """What both formats share: the facts of a record, harmless and short."""

    def __init__(self, with_traceback: bool) -> None:
        super().__init__()
        self._with_traceback = with_traceback

    def facts(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        """The fields that the caller gave, then what is known of an exception."""
        for name, value in vars(record).items():
            if name not in _STANDARD:
                yield name, value
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            yield "exception", f"{type(error).__name__}: {_text(error)}".removesuffix(": ")
            if self._with_traceback:
                yield "traceback", self.formatException(record.exc_info)
            elif frames := traceback.extract_tb(error.__traceback__):
                yield "at", f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _longest(facts: list[tuple[str, Any]]) -> int:
    """Characters that a line with these facts may have."""
    with_traceback = any(name == "traceback" for name, _value in facts)
    return _LINE_WITH_TRACEBACK if with_traceback else _LINE


def _limit(name: str) -> int:
    """Characters that the value of a fact may have."""
    return _TRACEBACK if name == "traceback" else _FIELD


def _message(record: logging.LogRecord) -> str:
    try:
        return _secrets.hide(record.getMessage())
    except Exception:  # noqa: BLE001 - arguments that do not fit must not cost the line
        return _text(record.msg)


def _text(value: object) -> str:
    """Any value as text without secrets."""
    try:
        return _secrets.hide(str(value))
    except Exception:  # noqa: BLE001 - a value that cannot be shown must not cost the line
        return f"<{type(value).__name__}>"


def _timestamp(record: logging.LogRecord) -> str:
    """UTC with milliseconds, such as 2026-11-23T01:02:03.456Z."""
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _visible(text: str) -> str:
    """The text on one line: whatever moves a cursor or hides is spelled out, as an escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class _TextFormatter(_Formatter):
    """`2026-11-23T01:02:03.456Z WARNING main: poll_failed: the exchange failed http_status=503`.

    Who (the account, or the library's logger) and which event come first, then the sentence, then
    the other facts. In the journal, which knows the time and the level, a priority precedes it.
    """

    def __init__(self, with_traceback: bool, *, journald: bool) -> None:
        super().__init__(with_traceback)
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        facts = [(name, value) for name, value in self.facts(record) if value is not None]
        given = dict(facts)
        who = given.get("account", None if _is_own(record.name) else record.name)
        before = [_text(part) for part in (who, given.get("event")) if part is not None]
        sentence = ": ".join([*(_cut(part, _FIELD) for part in before), _message(record)])
        parts = [_visible(_cut(sentence, _MESSAGE))]
        parts += [
            f"{_visible(_cut(name, _NAME))}={_quoted(_cut(_text(value), _limit(name)))}"
            for name, value in facts
            if name not in {"account", "event"}
        ]
        line = self._prefix(record) + " ".join(parts)
        return _cut(line, _longest(facts))

    def _prefix(self, record: logging.LogRecord) -> str:
        if not self._journald:
            return f"{_timestamp(record)} {record.levelname:<7} "
        for level, priority in _PRIORITIES:
            if record.levelno >= level:
                return f"<{priority}>"
        return f"<{_DEBUG_PRIORITY}>"


def _quoted(value: str) -> str:
    """The value so that one can tell where it ends: bare if it is one plain word."""
    if _BARE_VALUE.fullmatch(value) and value.isprintable():
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_visible(escaped)}"'


class _JsonFormatter(_Formatter):
    """One object per line, in ASCII: timestamp, level, logger, event, message, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end; its texts are cut until it is short enough."""
        import json  # noqa: PLC0415 - not needed for text

        facts = list(self.facts(record))
        longest = _longest(facts)
        line = ""
        # Escapes are longer than what they stand for, so how much fits is only known afterwards.
        for share in (1.0, 0.3, 0.1, 0.0):
            fields = {
                "timestamp": _timestamp(record),
                "level": record.levelname,
                "logger": _json_text(record.name, _NAME),
            }
            kept = {
                _json_text(name, _NAME): _json_value(value, int(_limit(name) * share))
                for name, value in facts
                if share
            }
            if "event" in kept:
                fields["event"] = kept["event"]
            fields["message"] = _json_text(_message(record), int(_MESSAGE * max(share, 0.05)))
            # DEL is the one control character that json leaves as it is. `fields` stands
            # twice: it comes first, and no fact of the same name replaces one of it.
            line = json.dumps(fields | kept | fields).replace("\x7f", "\\u007f")
            if len(line) <= longest:
                break
        return line


def _json_text(text: str, limit: int) -> str:
    # A lone surrogate fits no encoding, and strict readers refuse the line that holds its escape.
    return _cut(text, limit).encode("utf-8", "backslashreplace").decode()


def _json_value(value: object, limit: int) -> Any:
    """Numbers, truths and null as they are, where JSON has them; everything else as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return _json_text(_text(value), limit)
