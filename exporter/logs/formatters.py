"""Format log records as text or JSON, sanitized and short."""

import logging
import math
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exporter.logs.redaction import redact
from exporter.text import visible

ROOT = "exporter"
"""The parent of all loggers of this package."""

# In characters. People read log lines, and the tools that store them cut long ones; a traceback,
# which only DEBUG shows, gets more room.
_LINE = 2_000
_LINE_WITH_TRACEBACK = 20_000
_MESSAGE = 1_000
_FIELD = 300
_TRACEBACK = 12_000
_NAME = 100

# journald takes a line's priority, in syslog's numbers, from its beginning.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7

# Every reader of JSON takes integers up to this one for the same number.
_LARGEST_INTEGER = 2**53

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_BARE_VALUE = re.compile(r"[^\s\"'=\\]+")


def is_own(name: str) -> bool:
    """Return whether a logger is this package's."""
    return name == ROOT or name.startswith(f"{ROOT}.")


class _Formatter(logging.Formatter):
    """A base of both formats, which collects the facts of a record."""

    def __init__(self, with_traceback: bool) -> None:
        super().__init__()
        self._with_traceback = with_traceback

    def facts(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        """Yield the fields that the caller gave, then the facts of an exception."""
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
    """Return how many characters a line with these facts may have."""
    with_traceback = any(name == "traceback" for name, _value in facts)
    return _LINE_WITH_TRACEBACK if with_traceback else _LINE


def _limit(name: str) -> int:
    """Return how many characters the value of a fact may have."""
    return _TRACEBACK if name == "traceback" else _FIELD


def _message(record: logging.LogRecord) -> str:
    try:
        return redact(record.getMessage())
    except Exception:  # noqa: BLE001  # arguments that do not fit must not cost the line
        return _text(record.msg)


def _text(value: object) -> str:
    """Return any value as text without secrets."""
    try:
        return redact(str(value))
    except Exception:  # noqa: BLE001  # a value that cannot be shown must not cost the line
        return f"<{type(value).__name__}>"


def _timestamp(record: logging.LogRecord) -> str:
    """Return a record's time in UTC with milliseconds, such as 2026-11-23T01:02:03.456Z."""
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class TextFormatter(_Formatter):
    """`2026-11-23T01:02:03.456Z WARNING main: poll_failed: the exchange failed http_status=503`.

    The account (or the library's logger) and the event come first, then the sentence, then the
    other facts. The journal records time and level itself, so only a priority precedes a line.
    """

    def __init__(self, with_traceback: bool, *, journald: bool) -> None:
        super().__init__(with_traceback)
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, without its newline."""
        facts = [(name, value) for name, value in self.facts(record) if value is not None]
        given = dict(facts)
        who = given.get("account", None if is_own(record.name) else record.name)
        before = [_text(part) for part in (who, given.get("event")) if part is not None]
        sentence = ": ".join([*(_cut(part, _FIELD) for part in before), _message(record)])
        parts = [visible(_cut(sentence, _MESSAGE))]
        parts += [
            f"{visible(_cut(name, _NAME))}={_quoted(_cut(_text(value), _limit(name)))}"
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
    """Return a value in quotes, or bare if it is one plain word."""
    if _BARE_VALUE.fullmatch(value) and value.isprintable():
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{visible(escaped)}"'


class JsonFormatter(_Formatter):
    """One object per line, in ASCII: timestamp, level, logger, event, message, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, without its newline; cut its texts until it is short enough."""
        import json  # noqa: PLC0415  # not needed for text

        facts = list(self.facts(record))
        longest = _longest(facts)
        line = ""
        # Escapes are longer than their characters, so the length is known only afterwards.
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
            # `fields` comes first to set the order, and again so that no fact of the same name
            # replaces it. json escapes every control character but DEL.
            line = json.dumps(fields | kept | fields).replace("\x7f", "\\u007f")
            if len(line) <= longest:
                break
        return line


def _json_text(text: str, limit: int) -> str:
    # No encoding has a lone surrogate, and strict readers refuse a line that holds its escape.
    return _cut(text, limit).encode("utf-8", "backslashreplace").decode()


def _json_value(value: object, limit: int) -> Any:
    """Return numbers, booleans and None as they are if JSON has them, anything else as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return _json_text(_text(value), limit)
