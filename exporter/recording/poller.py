"""One poll of one account, from start to end: this module knows the exchange and the database.

claim → request → observation or failure → one transaction, or the spool until the database is back.
"""

from contextlib import suppress

import msgspec

from exporter.clock import Clock, elapsed
from exporter.errors import ApiError, BusyError, DatabaseError, Exit
from exporter.history.claim import ALWAYS, ClaimPolicy
from exporter.history.head import Head
from exporter.history.store import Store
from exporter.hooks import Hooks
from exporter.kalshi.session import SignedSession
from exporter.model import Poll
from exporter.recording.cooldown import COOLDOWN_BETWEEN_TICKS, Cooldown, retry_after
from exporter.recording.drain import Backlog
from exporter.recording.keep import Keeper, Timing
from exporter.recording.observe import observe
from exporter.recording.reporting import Reporter
from exporter.spool.spool import Spool

_MOST_OF = 0.9  # of an interval: two ticks lie a little less than an interval apart at times

# A long spool is written a part at a time, so that no poll is late for it: during a share of each
# interval, and for less time than the daemon waits when it is told to stop.
_DRAIN_SHARE = 0.25
_LONGEST_DRAIN = 5.0  # seconds


class _Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a claim.

    Attributes:
        head: what the poll's transaction compares and swaps; None if the poll must be spooled.
        database_error: why the database could not be used, if that is why.
    """

    head: Head | None
    database_error: DatabaseError | None = None


class Poller:
    """Poll one account repeatedly; for one thread at a time.

    Args:
        account: its name.
        subaccount: None for all of them in one response.
        timing: when and how long.
        session: signs and sends.
        store, spool: where polls are kept.
        clock: dates them.
        hooks: receive what happens.
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
        hooks: Hooks,
    ) -> None:
        self.account = account
        self.timing = timing
        self.cooldown = Cooldown()
        self._subaccount = subaccount
        self._session = session
        self._store = store
        self._clock = clock
        self._keeper = Keeper(account, timing=timing, store=store, spool=spool)
        self._reporter = Reporter(account, hooks)
        self._backlog = Backlog(
            account,
            spool=spool,
            store=store,
            write=lambda poll: self._keeper.write(poll, None),
            hooks=hooks,
        )

    def poll_if_due(self, *, first: bool, requested: float | None = None) -> Exit | None:
        """Poll as one of possibly many daemons, unless another one polls, or during a cooldown.

        A tick that is no poll still writes what waits in the spool: another daemon may hold the
        claim for as long as it runs.

        Args:
            first: whether this is the first poll since the process started. It asks even if the
                exchange has refused the credentials of others: somebody may have fixed the key.
            requested: seconds ago, if an event asked for this poll and not the grid: then another
                daemon's poll since that moment counts as this one.

        Returns:
            As `poll`; None if this was no poll.
        """
        drain_seconds = min(_DRAIN_SHARE * self.timing.interval, _LONGEST_DRAIN)
        if self.cooldown.remaining():
            self._drain(drain_seconds)
            return None
        try:
            return self._poll(
                ClaimPolicy(
                    # Another daemon's poll counts as this tick's; half an interval of leeway would
                    # let two daemons whose grids differ both ask.
                    polled_within=_MOST_OF * self.timing.interval
                    if requested is None
                    else requested,
                    unauthorized_within=0.0 if first else COOLDOWN_BETWEEN_TICKS,
                    heed_cooldown=True,
                ),
                drain_seconds=drain_seconds,
                repeats=True,
            )
        except BusyError as error:
            self._reporter.skipped(error)
            self._drain(drain_seconds)
            return None

    def poll(self) -> Exit:
        """Poll once, whatever happened before.

        Returns:
            The exit code; everything has been logged.
        """
        try:
            return self._poll(ALWAYS, drain_seconds=_LONGEST_DRAIN, repeats=False)
        except BusyError as error:
            self._reporter.busy(error)
            return error.exit_code

    def _poll(self, policy: ClaimPolicy, *, drain_seconds: float, repeats: bool) -> Exit:
        began = elapsed()
        claimed = self._claim(policy, drain_seconds)
        poll, error = self._request(claimed.head)
        result = self._keeper.keep(
            poll,
            claimed.head,
            retry_after=retry_after(error),
            database_error=claimed.database_error,
        )
        self._reporter.kept(result)
        if error is not None:
            wait = max(self.timing.interval, self.cooldown.remaining())
            self._reporter.failed(poll, error, next_poll_in=wait if repeats else None)
        exit_code = max(Exit.OK if error is None else error.exit_code, result.exit_code)
        self._reporter.finished(
            poll,
            head=claimed.head,
            error=error,
            result=result,
            exit_code=exit_code,
            seconds=elapsed() - began,
        )
        return exit_code

    def _claim(self, policy: ClaimPolicy, drain_seconds: float) -> _Claimed:
        """Claim the account, and write what waits in the spool."""
        try:
            head = self._claim_account(policy)
            emptied = self._backlog.drain(drain_seconds)
            if self._backlog.drained:
                # Draining advanced the head: claim again to read it.
                head = self._claim_account(ALWAYS)
        except DatabaseError as error:
            return _Claimed(head=None, database_error=error)
        return _Claimed(head=head if emptied else None)

    def _claim_account(self, policy: ClaimPolicy) -> Head:
        head = self._store.claim(
            self.account,
            now=self._clock.now(),
            # It ends before the next tick, so that others can take over then.
            lease=min(self.timing.deadline, _MOST_OF * self.timing.interval),
            policy=policy,
        )
        self.cooldown.know(head.refused_polls)
        return head

    def _drain(self, seconds: float) -> None:
        """Write what waits in the spool without a claim, which writing does not need."""
        with suppress(DatabaseError):  # it is away: what waits goes on waiting
            self._backlog.drain(seconds)

    def _request(self, head: Head | None) -> tuple[Poll, ApiError | None]:
        self.cooldown.begin()
        poll, error = observe(
            self.account,
            self._session,
            subaccount=self._subaccount,
            deadline=self.timing.deadline,
            known_digest=self._keeper.known_digest(head),
            clock=self._clock,
        )
        if error is None:
            self.cooldown.succeeded()
        else:
            self.cooldown.failed(error)
        return poll, error
