"""Keeps an error that comes with each poll from filling the log: its beginning, changes and end.

For the daemon. What comes in between is counted, and logged only at DEBUG.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exporter.errors import Exit
from exporter.hooks import Listener, PollFinished

_log = logging.getLogger("exporter.repeats")

# Who logs what may come with each poll.
_LOGGERS = ("exporter.recording.poller", "exporter.kalshi", "exporter.daemon.scheduler")

_MOST = 50  # kinds of line in one poll that are told apart

_Kind = tuple[object, ...]


@dataclass(slots=True)
class _Trouble:
    """What one account's polls complain of.

    Attributes:
        last: kinds of line that the previous poll logged, or would have.
        now: those of the poll that is under way.
        failed: polls in a row that were not all well.
        since: when the first of these began.
        silenced: lines that were not logged meanwhile.
    """

    last: set[_Kind] = field(default_factory=set)
    now: set[_Kind] = field(default_factory=set)
    failed: int = 0
    since: datetime | None = None
    silenced: int = 0


class RepeatFilter(Listener, logging.Filter):
    """Holds back a warning or an error of an account's poll that its previous poll had too."""

    def __init__(self) -> None:
        logging.Filter.__init__(self)
        self._accounts: dict[str, _Trouble] = {}

    def attach(self) -> None:
        """Begin to hold back."""
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        """Hold back no more."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def accounts_changed(self, intervals: Mapping[str, float]) -> None:
        """Forget the accounts that are not polled any more."""
        self._accounts = {
            account: self._accounts.get(account) or _Trouble() for account in intervals
        }

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged; called in the thread of the account's poll."""
        trouble = self._accounts.get(getattr(record, "account", ""))
        if trouble is None or record.levelno < logging.WARNING:
            return True
        kind = _kind(record)
        again = kind in trouble.last or kind in trouble.now
        if len(trouble.now) < _MOST:
            trouble.now.add(kind)
        if again and not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            trouble.silenced += 1
            return False
        if trouble.failed and not again:
            record.failed_polls = trouble.failed
        return True

    def polled(self, event: PollFinished) -> None:
        """Count, and tell when it is over."""
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
            polls = "1 poll" if trouble.failed == 1 else f"{trouble.failed} polls"
            _log.warning(
                "polled again; %s failed since %s",
                polls,
                since.replace("+00:00", "Z"),
                extra={
                    "event": "recovered",
                    "account": event.account,
                    "failed_polls": trouble.failed,
                    "suppressed": trouble.silenced,
                },
            )
            trouble.failed, trouble.since, trouble.silenced = 0, None, 0


def _kind(record: logging.LogRecord) -> _Kind:
    """What makes two lines the same: not their numbers, such as attempts, ports and seconds."""
    facts = vars(record)
    message = re.sub(r"\d+(?:\.\d+)?", "#", record.getMessage())
    error = record.exc_info[0] if record.exc_info else None
    return (*map(facts.get, ("event", "outcome", "http_status", "code")), message, error)
