"""The thread that writes what connections hear: to the database, or to the spool while it is away.

It takes all that has gathered and commits it, one transaction for each connection and account, so
that events are durable within milliseconds and a burst costs few transactions.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from exporter.clock import Clock, elapsed
from exporter.errors import ExporterError, PoisonPollError, SpoolError
from exporter.hooks import EventsRecorded, Hooks
from exporter.model import StreamBatch
from exporter.recording.stream_backlog import StreamTarget, log_lost, log_spool_failed, loss_of
from exporter.recording.stream_queue import Heard, Item, Member, NotListening, StreamQueue
from exporter.recording.stream_source import StreamSource

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0  # between two attempts to reach a database that is away
# A long spool is written a part at a time. Meanwhile what is heard goes behind it: if it had to
# wait, connections would overflow.
_DRAIN_SECONDS = 1.0
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What a daemon listens to, and where what it hears is kept."""

    sources: tuple[StreamSource, ...]
    target: StreamTarget


class StreamWriter:
    """Write the events that a queue gathers.

    Args:
        queue: from the connections.
        target: where to write first.
        hooks: receive `EventsRecorded`.
        clock: dates commits.
        poll_soon: is called with an account once events of it, or a new subscription, are durable.
    """

    def __init__(
        self,
        queue: StreamQueue,
        target: StreamTarget,
        *,
        hooks: Hooks,
        clock: Clock,
        poll_soon: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._hooks = hooks
        self._clock = clock
        self._poll_soon = poll_soon
        self._lock = threading.Lock()  # held while the target is in use
        self._target = target
        self._spooled: set[str] = set()  # accounts with batches that later ones must not overtake
        self._retry_at = 0.0
        self._drain_until = 0.0
        self._is_down = False  # which is logged once
        # When the spool of an account failed: no span goes on from before.
        self._broken_at: dict[str, datetime] = {}
        self._busy_since: float | None = None  # by `elapsed()`; None while it waits for something
        self._thread = threading.Thread(target=self._run, name="stream writer", daemon=True)

    def start(self) -> None:
        """Begin to write, in a thread of its own."""
        self.use(self._target)
        self._thread.start()

    def use(self, target: StreamTarget) -> None:
        """Write there from now on; nothing uses the former target once this returns."""
        with self._lock:
            self._target = target
            self._retry_at = 0.0
            self._spooled.clear()
            try:
                self._spooled.update(target.spool.accounts())
            except SpoolError as error:
                _log.warning("%s", error, extra={"event": "spool_failed"})

    def join(self, seconds: float) -> bool:
        """Wait until all is written once the queue is closed; return whether it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def name(self) -> str:
        """Its thread's name."""
        return self._thread.name

    @property
    def busy_seconds(self) -> float:
        """For how long it has been at one item; 0 if it waits for the next."""
        since = self._busy_since
        return 0.0 if since is None else elapsed() - since

    def _run(self) -> None:
        while (items := self._queue.take(self._wait())) is not None:
            self._busy_since = elapsed()
            with self._lock:
                self._drain_until = elapsed() + _DRAIN_SECONDS
                for item in items:
                    self._busy_since = elapsed()
                    self._handle(item)
                self._busy_since = elapsed()
                self._drain_all()
            self._busy_since = None

    def _wait(self) -> float:
        """Return the seconds until there is something to do although nothing is heard."""
        return max(0.0, self._retry_at - elapsed()) if self._spooled else _RETRY_SECONDS

    def _drain_all(self) -> None:
        try:
            for account in sorted(self._spooled):
                if elapsed() < self._retry_at or not self._drain(account):
                    break
        except Exception:  # noqa: BLE001  # as in `_handle`
            self._retry_at = elapsed() + _RETRY_SECONDS
            _log.exception("unexpected failure", extra={"event": "unexpected"})

    def _handle(self, item: Item) -> None:
        try:
            match item:
                case Heard():
                    for member in item.members:
                        self._handle_heard(member, item)
                case NotListening():
                    self._handle_not_listening(item)
        except Exception:  # noqa: BLE001  # a defect must not end all listening
            _log.exception("unexpected failure", extra={"event": "unexpected"})

    def _handle_heard(self, member: Member, heard: Heard) -> None:
        is_reachable = self._is_reachable(member.account.name)
        self._end_if_broken(member)
        is_new = member.since is None
        since = member.since = self._begin(member, is_reachable)
        batch = StreamBatch(
            account=member.account.name,
            own_groups_only=member.account.own_groups_only,
            since=since,
            # This begins a stretch of one instant, so that its events count as its own. But what is
            # taken back may reach into an earlier span of the connection.
            until=max(heard.until, since) if heard.claimed_until is None else heard.until,
            events=tuple(heard.events),
            cause=heard.cause,
            claimed_until=heard.claimed_until,
        )
        if self._keep(batch, is_reachable):
            member.joined_at = max(member.joined_at, batch.until)
        else:
            # The next span begins after everything that is lost.
            member.joined_at = _TICK + max(
                [batch.until, *(event.received_at for event in batch.events)]
            )
            member.since = None
        if is_new or batch.events:
            self._poll_soon(batch.account)

    def _handle_not_listening(self, item: NotListening) -> None:
        for account in item.accounts:
            self._keep(
                StreamBatch(
                    account=account.name,
                    own_groups_only=account.own_groups_only,
                    since=None,
                    until=item.at,
                    cause=item.cause,
                ),
                self._is_reachable(account.name),
            )

    def _end_if_broken(self, member: Member) -> None:
        """End a member's span if it was claimed in another database, or if the spool failed."""
        if member.database != self._target.database:
            member.since = None
            member.database = self._target.database
        broken_at = self._broken_at.get(member.account.name)
        if broken_at is not None and member.joined_at <= broken_at:
            member.since = None
            member.joined_at = broken_at + _TICK

    def _begin(self, member: Member, is_reachable: bool) -> datetime:
        """Return the instant since which a member's span is claimed."""
        if member.since is None:
            member.has_begun = False
        since = member.since or member.joined_at
        if is_reachable and not member.has_begun:
            try:
                begun = self._target.store.begin(member.account.name, since, now=datetime.now(UTC))
            except ExporterError as error:
                self._is_away(error)
            else:
                member.has_begun = True
                # A span that is in the database already, from the spool, stays as it is.
                return member.since or begun
        return since

    def _keep(self, batch: StreamBatch, is_reachable: bool) -> bool:
        """Write a batch, or spool it; return whether it is kept."""
        if is_reachable and elapsed() >= self._retry_at:
            try:
                self._target.store.write(batch)
            except PoisonPollError as error:
                self._give_up(batch, error)
                return False
            except ExporterError as error:
                self._is_away(error)
            else:
                self._is_down = False
                self._announce(batch)
                return True
        return self._put(batch)

    def _is_reachable(self, account: str) -> bool:
        """Return whether a batch may be written, because nothing of its account waits any more."""
        if elapsed() < self._retry_at:
            return False
        if account not in self._spooled:
            return True
        return elapsed() < self._drain_until and self._drain(account)

    def _put(self, batch: StreamBatch) -> bool:
        """Spool a batch; return whether it is kept."""
        if not batch.events and batch.cause is None and batch.account not in self._spooled:
            return True  # it extends a span, as the next one will
        self._spooled.add(batch.account)
        try:
            self._target.spool.put(batch)
        except SpoolError as error:
            log_lost(batch, error)
            return False
        self._announce(batch)
        return True

    def _drain(self, account: str) -> bool:
        """Write what waits in the spool for an account; return whether nothing waits any more."""
        try:
            if not self._target.drain(account, self._drain_until):
                return False
        except SpoolError as error:
            # Nothing else waits behind it: what is heard next need not either.
            log_spool_failed(account, error)
            self._broken_at[account] = self._clock.now()
        except ExporterError as error:
            self._is_away(error)
            return False
        self._spooled.discard(account)
        self._is_down = False
        return True

    def _is_away(self, error: ExporterError) -> None:
        if not self._is_down:
            self._is_down = True
            _log.error("%s; events wait in the spool", error, extra={"event": "events_spooled"})
        self._retry_at = elapsed() + _RETRY_SECONDS

    def _give_up(self, batch: StreamBatch, error: ExporterError) -> None:
        """Report a batch that the database will never hold as the cause of the gap it leaves."""
        log_lost(batch, error)
        try:
            self._target.store.write(loss_of(batch))
        except ExporterError as failure:
            self._is_away(failure)
            self._put(loss_of(batch))

    def _announce(self, batch: StreamBatch) -> None:
        if batch.events:
            self._hooks.emit(
                EventsRecorded(
                    account=batch.account, events=batch.events, recorded_at=self._clock.now()
                )
            )
