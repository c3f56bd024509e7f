"""Deduplicate log lines: an error that repeats is logged when it begins, changes and ends.

The daemon uses this. The lines in between are suppressed and counted, unless the level is DEBUG.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exporter.errors import Exit
from exporter.hooks import AccountsChanged, Event, PollFinished
from exporter.text import counted

_log = logging.getLogger(__name__)

# These loggers write the lines that may repeat with each poll.
_LOGGERS = (
    "exporter.recording.reporting",
    "exporter.recording.drain",
    "exporter.kalshi.retry",
    "exporter.daemon.runner",
)

_MAX_KINDS = 50  # kinds of line in one poll that are told apart

_Kind = tuple[object, ...]


@dataclass(slots=True)
class _Trouble:
    """The warnings and errors of one account's polls.

    Attributes:
        last: the kinds of line of the previous poll, suppressed ones included.
        now: those of the poll under way.
        failed: how many polls in a row did not end with exit code 0.
        since: when the first of these began.
        suppressed: how many lines were suppressed since then.
    """

    last: set[_Kind] = field(default_factory=set)
    now: set[_Kind] = field(default_factory=set)
    failed: int = 0
    since: datetime | None = None
    suppressed: int = 0


class RepeatFilter(logging.Filter):
    """Suppress a warning or an error of an account's poll that its previous poll logged too."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[str, _Trouble] = {}

    def attach(self) -> None:
        """Begin to suppress repeats."""
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        """Stop suppressing repeats."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is logged; called in the thread of the account's poll."""
        trouble = self._accounts.get(getattr(record, "account", ""))
        if trouble is None or record.levelno < logging.WARNING:
            return True
        kind = _kind(record)
        again = kind in trouble.last or kind in trouble.now
        if len(trouble.now) < _MAX_KINDS:
            trouble.now.add(kind)
        if again and not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            trouble.suppressed += 1
            return False
        if trouble.failed and not again:
            record.failed_polls = trouble.failed
        return True

    def receive(self, event: Event) -> None:
        """Count a poll; forget the accounts that are no longer polled."""
        match event:
            case PollFinished():
                self._count(event)
            case AccountsChanged():
                self._change_accounts(event.intervals)

    def _change_accounts(self, intervals: Mapping[str, float]) -> None:
        self._accounts = {
            account: self._accounts.get(account) or _Trouble() for account in intervals
        }

    def _count(self, event: PollFinished) -> None:
        trouble = self._accounts.get(event.account)
        if trouble is None:
            return
        trouble.last, trouble.now = trouble.now, set()
        if event.exit_code != Exit.OK:
            trouble.failed += 1
            trouble.since = trouble.since or event.started_at
            return
        if trouble.failed:
            since = (trouble.since or datetime.now(UTC)).isoformat(timespec="seconds")
            _log.warning(
                "polled again; %s failed since %s",
                counted(trouble.failed, "poll"),
                since.replace("+00:00", "Z"),
                extra={
                    "event": "recovered",
                    "account": event.account,
                    "failed_polls": trouble.failed,
                    "suppressed": trouble.suppressed,
                },
            )
            trouble.failed, trouble.since, trouble.suppressed = 0, None, 0


def _kind(record: logging.LogRecord) -> _Kind:
    """Return the key that repeated lines share; numbers in them, such as ports, may differ."""
    facts = vars(record)
    message = re.sub(r"\d+(?:\.\d+)?", "#", record.getMessage())
    error = record.exc_info[0] if record.exc_info else None
    return (*map(facts.get, ("event", "outcome", "http_status", "code")), message, error)
