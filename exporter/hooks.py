"""What happens while polling, and who is told of it: metrics, systemd, the log, a healthcheck.

`poll` and `daemon` tell, the modules of `operating` listen.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from exporter.errors import Exit, Outcome

_log = logging.getLogger("exporter.hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFinished:
    """One poll of one account, whatever came of it.

    Attributes:
        seconds: that it took, from the claim to the commit.
        kept: where the poll's row is.
        exit_code: what became of it.
        reason: one line, if it is not all well.
        last_success_at: the account's latest observation in the database, whoever made it; None if
            there is none, or the database was away.
        groups, added, changed, removed: None unless an observation was written.
    """

    account: str
    started_at: datetime
    finished_at: datetime
    seconds: float
    outcome: Outcome
    attempts: int
    clock_skew_ms: int | None
    kept: Literal["database", "spool", "nowhere"]
    exit_code: Exit
    reason: str | None = None
    last_success_at: datetime | None = None
    groups: int | None = None
    added: int | None = None
    changed: int | None = None
    removed: int | None = None


class Listener:
    """Is told what happens; each method does nothing until a listener has a use for it.

    Called from many threads, `polled`, `drained` and `tick_skipped` from one at a time for each
    account. None may take long: a poll waits meanwhile.
    """

    def accounts_changed(self, intervals: Mapping[str, float]) -> None:
        """These accounts are polled from now on, each so many seconds apart, and no others."""

    def polled(self, event: PollFinished) -> None:
        """A poll has ended."""

    def drained(self, account: str, *, added: int, changed: int, removed: int) -> None:
        """A poll that waited in the spool was written, with so many changes."""

    def tick_skipped(self, account: str) -> None:
        """A tick was no poll, because another exporter is at it."""

    def ready(self) -> None:
        """The daemon polls: for the first time, or again after `reloading`."""

    def heartbeat(self) -> None:
        """The scheduler's loop moves, and no poll hangs; every few seconds."""

    def reloading(self) -> None:
        """The daemon reads its configuration anew."""

    def stopping(self) -> None:
        """The daemon begins no more polls."""


class Listeners:
    """All who are told; a failure of one is logged, and is nobody else's.

    Args:
        listeners: in the order in which they are told.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def replace(self, *listeners: Listener) -> None:
        """Tell these from now on, and no others."""
        self._listeners = listeners

    def tell(self, what: Callable[[Listener], None]) -> None:
        """Call each listener."""
        for listener in self._listeners:
            try:
                what(listener)
            except Exception:  # noqa: BLE001  # what watches the polls must never harm one
                _log.exception(
                    "unexpected failure beside the polls",
                    extra={"event": "listener_failed", "listener": type(listener).__name__},
                )
