"""Report one account's polls: log lines for people, and `PollFinished` for listeners."""

import logging
from typing import Any

from exporter.errors import ApiError, BusyError, Exit
from exporter.history.head import Head
from exporter.hooks import Hooks, PollFinished, TickSkipped
from exporter.model import Poll
from exporter.recording.keep import KeepResult

_log = logging.getLogger(__name__)


class Reporter:
    """A reporter of the polls of one account.

    Args:
        account: its name.
        hooks: receive `PollFinished` and `TickSkipped`.
    """

    def __init__(self, account: str, hooks: Hooks) -> None:
        self._account = account
        self._hooks = hooks

    def failed(self, poll: Poll, error: ApiError, *, next_poll_in: float | None) -> None:
        """Log a poll that failed.

        Args:
            poll: what happened.
            error: why.
            next_poll_in: seconds until this process polls again; None if it does not.
        """
        next_step = "give up" if next_poll_in is None else f"poll again in {next_poll_in:.3g} s"
        _log.error(
            "%s",
            error.summary,
            extra={
                "event": "poll_failed",
                "account": self._account,
                "outcome": poll.outcome,
                "http_status": poll.http_status,
                "code": error.code,
                "error": error.message,
                "details": error.details,
                "service": error.service,
                "attempt": poll.attempts,
                "next": next_step,
            },
        )

    def kept(self, result: KeepResult) -> None:
        """Log where an observation is kept, or why a poll is not in the database."""
        facts: dict[str, Any] = {"account": self._account}
        if result.kept == "nowhere":
            _log.error("%s: this poll is lost", result.reason, extra=facts | {"event": "poll_lost"})
        elif result.database_error is not None:
            _log.error(
                "%s; the poll waits in the spool %s",
                result.database_error,
                result.database_error.until,
                extra=facts | {"event": "spooled"},
            )
        elif result.written is None:
            _log.info(
                "the poll waits in the spool until older ones are written",
                extra=facts | {"event": "queued"},
            )
        elif result.written.outcome == "superseded":
            _log.warning(
                "another exporter was faster; this poll changed nothing",
                extra=facts | {"event": "poll_superseded"},
            )
        elif result.written.outcome == "ok":
            facts |= {
                "event": "poll_ok",
                "groups": result.written.standing,
                "missing": result.written.missing,
                "added": result.written.added,
                "changed": result.written.changed,
                "removed": result.written.removed,
            }
            _log.info("polled", extra=facts)

    def skipped(self, error: BusyError) -> None:
        """Report a tick that made no poll, because another exporter is polling the account."""
        _log.debug("%s", error, extra={"event": "tick_skipped", "account": self._account})
        self._hooks.emit(TickSkipped(self._account))

    def busy(self, error: BusyError) -> None:
        """Log that a requested poll did not take place."""
        _log.error("%s", error, extra={"event": "busy", "account": self._account})

    def finished(
        self,
        poll: Poll,
        *,
        head: Head | None,
        error: ApiError | None,
        result: KeepResult,
        exit_code: Exit,
        seconds: float,
    ) -> None:
        """Emit `PollFinished`."""
        written = result.written
        last_success_at = None if head is None else head.observed_at
        if written is not None and written.outcome == "ok" and poll.observation is not None:
            last_success_at = poll.observation.observed_at
        self._hooks.emit(
            PollFinished(
                account=self._account,
                started_at=poll.started_at,
                finished_at=poll.finished_at,
                seconds=seconds,
                outcome=poll.outcome if written is None else written.outcome,
                attempts=poll.attempts,
                clock_skew_ms=poll.clock_skew_ms,
                kept=result.kept,
                exit_code=exit_code,
                http_status=poll.http_status,
                reason=result.reason if error is None else error.reason,
                last_success_at=last_success_at,
                groups=None if written is None else written.standing,
                missing=None if written is None else written.missing,
                found=0 if written is None else written.found,
                added=None if written is None else written.appeared,
                changed=None if written is None else written.changed,
                removed=None if written is None else written.removed,
            )
        )
