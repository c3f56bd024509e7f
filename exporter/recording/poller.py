"""One poll of one account, start to finish: the only module that knows both sides.

claim → ask → observation or failure → one transaction, or the spool until the database is back.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from exporter.clock import Clock, elapsed
from exporter.errors import (
    ApiError,
    BusyError,
    DatabaseError,
    Exit,
    SpoolError,
    UnauthorizedError,
)
from exporter.history.claim import ALWAYS, UNAUTHORIZED_THRESHOLD, ClaimPolicy
from exporter.history.head import Head
from exporter.history.store import Store, WriteResult
from exporter.hooks import Listeners, PollFinished
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.order_groups import fetch_order_groups
from exporter.kalshi.session import SignedSession
from exporter.model import Observation, Poll
from exporter.recording.drain import Backlog
from exporter.spool.spool import Spool

_log = logging.getLogger("exporter.recording.poller")

COOLDOWN = 300.0
"""Seconds between two polls of an account whose polls are refused, in a daemon."""

# A tick on the grid may come some milliseconds earlier after its poll's start than the last did.
_PAUSE = COOLDOWN - 0.1

_LONGEST_RETRY_AFTER = 300.0  # seconds that a 429 may keep an account from being polled

_MOST_OF = 0.9  # of an interval: two ticks lie a little less than an interval apart at times

# A long spool is written some at a time, so that no poll is late for it: for a part of each
# interval, and for less than the daemon waits when it is told to stop.
_DRAIN_PART = 0.25
_LONGEST_DRAIN = 5.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How one account is polled: `interval` and `deadline` in seconds."""

    interval: float
    deadline: float
    confirm_removal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotWritten:
    """A poll that is not in the database: in the spool, or nowhere."""

    exit_code: Exit
    spooled: bool


class Poller:
    """Polls one account, again and again; for one thread at a time.

    Args:
        account: its name.
        subaccount: None for all of them in one answer.
        timing: when and how long.
        session: signs and sends.
        store, spool: where polls are kept.
        clock: dates them.
        listeners: are told how each poll ended.
    """

    def __init__(
        self,
        account: str,
        *,
        subaccount: int | None,
        timing: Timing,
        session: SignedSession,
        store: Store,
        spool: Spool,
        clock: Clock,
        listeners: Listeners | None = None,
    ) -> None:
        self.account = account
        self.timing = timing
        self._subaccount = subaccount
        self._session = session
        self._store = store
        self._spool = spool
        self._clock = clock
        self._listeners = listeners or Listeners()
        self._backlog = Backlog(
            account,
            spool=spool,
            store=store,
            write=lambda poll: self._write(poll, None),
            listeners=self._listeners,
        )
        self._refused = 0
        self._resting_until = 0.0
        self._database_error: DatabaseError | None = None  # why polls go into the spool

    def prepare(self) -> None:
        """Make sure that the database's schema is right, before anything is asked.

        Raises:
            SchemaError: it is not this version's.
            DatabaseError: the database is away.
        """
        self._store.prepare()

    def maintain(self) -> None:
        """Do for the database what is best done between two polls; it disturbs none."""
        self._store.maintain()

    def poll_if_due(self, *, first: bool) -> Exit | None:
        """Poll as one of possibly many daemons: not while another does, nor while refused.

        Args:
            first: whether this is the first poll since the process started, which asks even if
                the exchange has refused others: somebody may have mended the key.

        Returns:
            As `poll`; None if this tick was no poll.
        """
        if elapsed() < self._resting_until:
            return None
        try:
            return self._poll(
                policy=ClaimPolicy(
                    # Another daemon's poll counts as this tick's; half an interval of leeway would
                    # let two daemons whose grids differ both ask.
                    polled_within=_MOST_OF * self.timing.interval,
                    unauthorized_within=0.0 if first else _PAUSE,
                    heed_cooldown=True,
                ),
                drain=min(_DRAIN_PART * self.timing.interval, _LONGEST_DRAIN),
                again=True,
            )
        except BusyError as error:
            _log.debug("%s", error, extra={"event": "tick_skipped", "account": self.account})
            self._listeners.tell(lambda listener: listener.tick_skipped(self.account))
            return None

    def poll(self) -> Exit:
        """Poll once, whatever happened before.

        Returns:
            What became of it; everything has been logged.
        """
        try:
            return self._poll(policy=ALWAYS, drain=_LONGEST_DRAIN, again=False)
        except BusyError as error:
            _log.error("%s", error, extra={"event": "busy", "account": self.account})
            return error.exit_code

    def _poll(self, *, policy: ClaimPolicy, drain: float, again: bool) -> Exit:
        began = elapsed()
        head = self._claim(drain, policy)
        poll, error = self._ask(head)
        code = Exit.OK if error is None else error.exit_code
        written = self._keep(poll, head, cooldown=_pause(error))
        if error is not None:
            self._log_failure(poll, error, again=again)
        elif isinstance(written, WriteResult):
            self._log_success(written)
        if isinstance(written, NotWritten):
            code = max(code, written.exit_code)
        elif written.outcome == "superseded":
            code = max(code, Exit.TEMPORARY)
        self._tell(poll, head, written, error, code=code, seconds=elapsed() - began)
        return code

    def _tell(
        self,
        poll: Poll,
        head: Head | None,
        written: WriteResult | NotWritten,
        error: ApiError | None,
        *,
        code: Exit,
        seconds: float,
    ) -> None:
        kept = written if isinstance(written, WriteResult) else None
        reason = None if error is None else error.reason
        last_success_at = None if head is None else head.observed_at
        if kept is None:
            reason = reason or str(self._database_error or "older polls are still being written")
        elif kept.outcome == "ok" and poll.observation is not None:
            last_success_at = poll.observation.observed_at
        elif kept.outcome == "superseded":
            reason = "another exporter was faster"
        event = PollFinished(
            account=self.account,
            started_at=poll.started_at,
            finished_at=poll.finished_at,
            seconds=seconds,
            outcome=poll.outcome if kept is None else kept.outcome,
            attempts=poll.attempts,
            clock_skew_ms=poll.clock_skew_ms,
            kept=_place(written),
            exit_code=code,
            reason=reason,
            last_success_at=last_success_at,
            groups=None if kept is None else kept.group_count,
            added=None if kept is None else kept.added,
            changed=None if kept is None else kept.changed,
            removed=None if kept is None else kept.removed,
        )
        self._listeners.tell(lambda listener: listener.polled(event))

    def _claim(self, drain: float, policy: ClaimPolicy) -> Head | None:
        """Claim the account and write what waits in the spool, for so many seconds.

        Returns:
            None if this poll must be spooled: the database is away, or older polls still wait.
        """
        try:
            head = self._claimed(policy)
            emptied = self._backlog.drain(drain)
            if self._backlog.drained:
                # Draining advanced the head: claim again to read it.
                head = self._claimed(ALWAYS)
        except DatabaseError as error:
            self._database_error = error
            return None
        self._database_error = None
        return head if emptied else None

    def _claimed(self, policy: ClaimPolicy) -> Head:
        head = self._store.claim(
            self.account,
            now=self._clock.now(),
            # Over by the next tick, so that others take over then.
            lease=min(self.timing.deadline, _MOST_OF * self.timing.interval),
            policy=policy,
        )
        self._refused = head.refused_polls
        return head

    def _ask(self, head: Head | None) -> tuple[Poll, ApiError | None]:
        started_at = self._clock.now()
        began = elapsed()
        budget = RequestBudget(self.timing.deadline)
        try:
            observation = fetch_order_groups(
                self._session,
                budget,
                subaccount=self._subaccount,
                known_digest=self._known_digest(head),
                now=self._clock.now,
            )
        except ApiError as error:
            self._rest_after(error, began)
            return self._record(started_at, budget, error=error), error
        self._refused = 0
        return self._record(started_at, budget, observation=observation), None

    def _known_digest(self, head: Head | None) -> str | None:
        if head is not None:
            return head.digest
        try:
            return self._spool.known_digest(self.account)
        except SpoolError:
            return None  # `put` will meet the same error, and report it.

    def _record(
        self,
        started_at: datetime,
        budget: RequestBudget,
        *,
        observation: Observation | None = None,
        error: ApiError | None = None,
    ) -> Poll:
        return Poll(
            account=self.account,
            started_at=started_at,
            finished_at=self._clock.now(),
            outcome="ok" if error is None else error.outcome,
            attempts=budget.attempts,
            http_status=budget.http_status,
            clock_skew_ms=budget.clock_skew_ms,
            error_code=None if error is None else error.code,
            error_message=None if error is None else error.message or error.reason,
            error_details=None if error is None else error.details,
            error_service=None if error is None else error.service,
            observation=observation,
        )

    def _rest_after(self, error: ApiError, began: float) -> None:
        refused = isinstance(error, UnauthorizedError)
        self._refused = self._refused + 1 if refused else 0
        self._resting_until = elapsed() + _pause(error)
        if self._refused >= UNAUTHORIZED_THRESHOLD:
            self._resting_until = max(self._resting_until, began + _PAUSE)

    def _keep(self, poll: Poll, head: Head | None, *, cooldown: float) -> WriteResult | NotWritten:
        """Write the poll, or spool it."""
        if head is not None:
            try:
                return self._write(poll, head, cooldown=cooldown)
            except DatabaseError as error:
                self._database_error = error
        failed = self._database_error
        try:
            self._spool.put(poll)
        except SpoolError as error:
            _log.error(
                "%s; %s: this poll is lost",
                failed or "older polls wait",
                error,
                extra={"event": "poll_lost", "account": self.account},
            )
            return NotWritten(exit_code=error.exit_code, spooled=False)
        if failed is None:
            _log.info(
                "the poll waits in the spool until older ones are written",
                extra={"event": "queued", "account": self.account},
            )
            return NotWritten(exit_code=Exit.TEMPORARY, spooled=True)
        _log.error(
            "%s; the poll waits in the spool %s",
            failed,
            failed.until,
            extra={"event": "spooled", "account": self.account},
        )
        code = Exit.TEMPORARY if failed.retryable else failed.exit_code
        return NotWritten(exit_code=code, spooled=True)

    def _write(self, poll: Poll, head: Head | None, *, cooldown: float = 0.0) -> WriteResult:
        return self._store.write(
            poll,
            head=head,
            interval=self.timing.interval,
            confirm_removal=self.timing.confirm_removal,
            cooldown=cooldown,
        )

    def _log_success(self, written: WriteResult) -> None:
        facts: dict[str, Any] = {"event": "poll_ok", "account": self.account}
        if written.outcome == "superseded":
            _log.warning(
                "another exporter was faster; this poll changed nothing",
                extra=facts | {"event": "poll_superseded"},
            )
            return
        facts |= {
            "groups": written.group_count,
            "added": written.added,
            "changed": written.changed,
            "removed": written.removed,
        }
        _log.info("polled", extra=facts)

    def _log_failure(self, poll: Poll, error: ApiError, *, again: bool) -> None:
        wait = max(self.timing.interval, self._resting_until - elapsed())
        _log.error(
            "%s",
            error.summary,
            extra={
                "event": "poll_failed",
                "account": self.account,
                "outcome": poll.outcome,
                "http_status": poll.http_status,
                "code": error.code,
                "error": error.message,
                "details": error.details,
                "service": error.service,
                "attempt": poll.attempts,
                "next": f"poll again in {wait:.3g} s" if again else "give up",
            },
        )


def _place(written: WriteResult | NotWritten) -> Literal["database", "spool", "nowhere"]:
    if isinstance(written, WriteResult):
        return "database"
    return "spool" if written.spooled else "nowhere"


def _pause(error: ApiError | None) -> float:
    """Seconds for which the exchange wants to be left alone."""
    return 0.0 if error is None else min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER)
