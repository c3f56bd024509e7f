"""Listen to one source: connect, wait after each connection, and connect again."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from exporter.causes import NOT_LISTENING
from exporter.clock import Clock, SteadyClock, elapsed
from exporter.errors import StreamError
from exporter.history.claim import UNAUTHORIZED_THRESHOLD
from exporter.history.occurrences import Occurrences
from exporter.hooks import Hooks
from exporter.kalshi.stream_connection import StreamConnection
from exporter.recording.backoff import HELD_SECONDS, Backoff
from exporter.recording.cooldown import COOLDOWN
from exporter.recording.stream_queue import NotListening, StreamQueue, Subscription
from exporter.recording.stream_reporting import StreamReporter
from exporter.recording.stream_source import StreamSource

_log = logging.getLogger(__name__)

_OVERFLOW_SECONDS = 30.0  # that a connection waits for room in the queue
_ROOM_SECONDS = 0.005  # between two looks whether there is room
_CLOSE_SECONDS = 1.0  # for a goodbye

EXCHANGE_LAG = timedelta(seconds=1)
"""The longest time from an event on the matching engine until the exchange has sent it.

A ping that the exchange has answered proves that everything sent before it has arrived, but not
that everything that happened had been sent. So stretches of coverage end this much earlier.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The parts that all listeners of a process share.

    Attributes:
        queue: for the writer.
        clock: dates what is heard.
        steady: returns the clock that dates how far it is certain: another after the wall clock
            was set, when every connection must be made again.
        hooks: receive `StreamChanged`.
        tls: which certificates to trust.
        handshakes: bounds how many there are at the same time.
        cooldown: returns the seconds for which polls of an account must not ask the exchange.
        extend_seconds: returns how often a stretch is extended.
    """

    queue: StreamQueue
    clock: Clock
    steady: Callable[[], SteadyClock]
    hooks: Hooks
    tls: ssl.SSLContext
    handshakes: asyncio.Semaphore
    cooldown: Callable[[str], float]
    extend_seconds: Callable[[], float]


class Listener:
    """Listen to one source until it is stopped.

    Args:
        source: what the connection needs.
        shared: with all other listeners.
    """

    def __init__(self, source: StreamSource, shared: Shared) -> None:
        self._source = source
        self._shared = shared
        self._reporter = StreamReporter(shared.hooks, shared.clock)
        self._backoff = Backoff()
        self._unauthorized = 0
        self._connection: StreamConnection | None = None
        self._subscription: Subscription | None = None
        self._is_reported = False  # that nobody listens, and why
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, *, delay: float) -> None:
        """Begin to listen after this many seconds."""
        self._task = asyncio.create_task(self._run(delay))

    async def stop(self) -> None:
        """End the connection, and note up to when it heard everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._reporter.ended(self._source)

    def clock_was_set(self, seconds: float) -> None:
        """Connect again after the wall clock was set: each connection dates by one clock alone.

        The exchange accepts no handshake if the clock is wrong now.
        """
        if self._connection is not None:
            self._connection.give_up(_describe(seconds))

    def replace(self, source: StreamSource) -> None:
        """Listen for other accounts; the next handshake is signed with the source's key."""
        before = {account.name for account in self._source.accounts}
        after = {account.name for account in source.accounts}
        self._source = source
        if self._subscription is None:
            # Whatever was refused, somebody may have fixed it.
            self._backoff = Backoff()
            self._unauthorized = 0
            self._wake.set()
            return
        now = self._shared.steady().now()
        self._shared.queue.replace(self._subscription, source.accounts, now)
        for name in sorted(before - after):
            self._reporter.left(name)
        for name in sorted(after - before):
            self._reporter.joined(name)

    async def _run(self, delay: float) -> None:
        await self._sleep(delay)
        while True:
            while (cooldown := self._cooldown()) > 0:
                await self._sleep(cooldown)
            try:
                wait = await self._listen()
            except Exception:  # noqa: BLE001  # a defect must not end listening
                wait = self._backoff.next_wait(at_least=0.0)
                self._reporter.ended(self._source)
                _log.exception(
                    "unexpected failure; connect again in %.1f s",
                    wait,
                    extra={"event": "unexpected", "account": self._source.names},
                )
            await self._sleep(wait)

    async def _listen(self) -> float:
        """Listen over one connection; return the seconds to wait before the next."""
        source = self._source
        steady = self._shared.steady()
        subscribed_at: float | None = None
        async with AsyncExitStack() as stack:
            self._connection = connection = StreamConnection(
                source.url,
                key_id=source.key_id,
                key=source.key,
                now=self._shared.clock.now,
                steady=steady.now,
                tls=self._shared.tls,
                proxy=source.proxy,
                close_timeout=_CLOSE_SECONDS,
            )
            try:
                async with self._shared.handshakes:
                    await stack.enter_async_context(connection)
                subscribed_at = elapsed()
                await self._hear(connection, steady)
            except StreamError as error:
                if subscribed_at is not None:
                    self._backoff.connected(elapsed() - subscribed_at)
                wait = self._wait_after(error)
                self._lost(error, was_connected=subscribed_at is not None, wait=wait)
        return wait

    async def _hear(self, connection: StreamConnection, steady: SteadyClock) -> None:
        """Pass on what a connection hears, whose instants are by this clock.

        Raises:
            StreamError: always, in the end.
        """
        if steady is not self._shared.steady():
            raise StreamError(
                "this machine's clock was set during the handshake", cause=NOT_LISTENING
            )
        queue = self._shared.queue
        occurrences = Occurrences()
        subscription = queue.open(self._source.accounts, connection.subscribed_at)
        self._subscription = subscription
        self._is_reported = False
        self._reporter.connected(self._source)
        extending = asyncio.create_task(self._extend(connection, subscription))
        try:
            async for event in connection:
                queue.add(subscription, occurrences.number(event), _certain_until(connection))
                if queue.is_full:
                    await self._wait_for_room(connection)
        except StreamError as error:
            until = error.certain_until or connection.subscribed_at
            until = max(until - EXCHANGE_LAG, connection.subscribed_at)
            queue.end(subscription, until, error.cause)
            self._is_reported = True
            raise
        except BaseException:
            queue.end(subscription, _certain_until(connection), NOT_LISTENING)
            raise
        finally:
            self._subscription = None
            extending.cancel()

    async def _extend(self, connection: StreamConnection, subscription: Subscription) -> None:
        """Extend the stretch now and then, as far as the exchange's answers prove it."""
        began = elapsed()
        while True:
            await asyncio.sleep(self._shared.extend_seconds())
            self._shared.queue.extend(subscription, _certain_until(connection))
            if elapsed() - began >= HELD_SECONDS:
                self._reporter.held()

    async def _wait_for_room(self, connection: StreamConnection) -> None:
        until = elapsed() + _OVERFLOW_SECONDS
        while self._shared.queue.is_full:
            if elapsed() > until:
                raise StreamError(
                    f"events came faster than they could be kept for {_OVERFLOW_SECONDS:g} s",
                    cause="overflow",
                    certain_until=connection.certain_until,
                )
            await asyncio.sleep(_ROOM_SECONDS)

    def _lost(self, error: StreamError, *, was_connected: bool, wait: float) -> None:
        self._reporter.lost(self._source, error, was_connected=was_connected, wait=wait)
        if not self._is_reported:
            # Once: of several causes in a gap the first counts.
            self._is_reported = True
            self._shared.queue.report(
                NotListening(
                    accounts=self._source.accounts,
                    at=datetime.now(UTC),
                    cause=error.cause,
                )
            )

    def _wait_after(self, error: StreamError) -> float:
        self._unauthorized = self._unauthorized + 1 if error.cause == "unauthorized" else 0
        if error.cause == NOT_LISTENING:
            self._backoff = Backoff()  # the exchange is not to blame
        wait = self._backoff.next_wait(at_least=error.retry_after or 0.0)
        return max(wait, COOLDOWN) if self._unauthorized >= UNAUTHORIZED_THRESHOLD else wait

    def _cooldown(self) -> float:
        """Return the seconds until polls may ask; if one account may, the key is not to blame."""
        return min(self._shared.cooldown(account.name) for account in self._source.accounts)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer once the configuration has been read again."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


def _describe(step: float) -> str:
    """Return what a step of the wall clock means, in one line."""
    if step < 0:
        return f"this machine's clock was set back by {-step:.0f} s"
    return f"this machine slept, or its clock was set forward: by {step:.0f} s"


def _certain_until(connection: StreamConnection) -> datetime:
    """Return up to when no event is missing among those heard so far."""
    return connection.certain_until - EXCHANGE_LAG
