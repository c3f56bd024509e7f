"""Report one connection's state: log lines for people, and `StreamChanged` for listeners."""

import logging
import re
from typing import Any

from exporter.clock import Clock
from exporter.errors import StreamError
from exporter.hooks import Hooks, StreamChanged
from exporter.recording.stream_source import StreamSource

_log = logging.getLogger(__name__)


class StreamReporter:
    """Report one connection's state; repeats are suppressed and counted.

    A connection that is lost soon after it was made, each time for the same reason, is a repeat
    too: its lines come once, until it holds.

    Args:
        hooks: receive `StreamChanged`.
        clock: dates it.
    """

    def __init__(self, hooks: Hooks, clock: Clock) -> None:
        self._hooks = hooks
        self._clock = clock
        self._failure: tuple[str, str] | None = None  # the latest, until a connection holds
        self._failed = 0
        self._suppressed = 0
        self._is_folding = False
        self._unlogged: StreamSource | None = None

    def connected(self, source: StreamSource) -> None:
        """Report a connection that is subscribed."""
        for account in source.accounts:
            self._emit(account.name, connected=True)
        if self._is_folding:
            self._suppressed += 1
            self._unlogged = source
        else:
            self._log_connected(source)

    def held(self) -> None:
        """Note that the connection has lasted for a while."""
        if self._unlogged is not None:
            self._log_connected(self._unlogged)
            self._unlogged = None
        self._failure = None
        self._failed = self._suppressed = 0
        self._is_folding = False

    def joined(self, name: str) -> None:
        """Report an account for which an existing connection listens from now on."""
        self._emit(name, connected=True)

    def left(self, name: str) -> None:
        """Report an account for which the connection no longer listens."""
        self._emit(name, connected=False, cause="not_listening")

    def lost(
        self, source: StreamSource, error: StreamError, *, was_connected: bool, wait: float
    ) -> None:
        """Report a connection that was lost, or could not be made.

        Args:
            source: whose.
            error: why.
            was_connected: whether it had been subscribed.
            wait: seconds until the next attempt.
        """
        self._unlogged = None
        self._failed += 1
        failure = (error.cause, re.sub(r"\d+(?:\.\d+)?", "#", error.summary))
        self._is_folding = failure == self._failure
        self._failure = failure
        if self._is_folding and not _log.isEnabledFor(logging.DEBUG):
            self._suppressed += 1
        else:
            _log.warning(
                "%s",
                error.summary,
                extra=(
                    {"event": "stream_disconnected"}
                    if was_connected
                    else {"event": "stream_failed"}
                )
                | {
                    "account": source.names,
                    "cause": error.cause,
                    "http_status": error.http_status,
                    "code": error.code,
                    "error": error.message,
                    "details": error.details,
                    "next": f"connect again in {wait:.1f} s",
                },
            )
        for account in source.accounts:
            self._emit(
                account.name,
                connected=False,
                was_connected=was_connected,
                cause=error.cause,
                reason=error.reason,
            )

    def ended(self, source: StreamSource) -> None:
        """Report that this process no longer listens."""
        for account in source.accounts:
            self.left(account.name)

    def _log_connected(self, source: StreamSource) -> None:
        facts: dict[str, Any] = {"event": "stream_connected", "account": source.names}
        if self._failed:
            facts |= {"failed_attempts": self._failed, "suppressed": self._suppressed}
        _log.info("listening to events", extra=facts)

    def _emit(self, account: str, **facts: Any) -> None:
        self._hooks.emit(StreamChanged(account=account, at=self._clock.now(), **facts))
