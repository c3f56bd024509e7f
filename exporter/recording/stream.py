"""Listen to the exchange's events: all connections of a daemon in one thread, on one event loop.

A connection is made for each API key and exchange (`stream_listener`). What it hears goes through a
bounded queue (`stream_queue`) to the thread that writes (`stream_writer`).
"""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from exporter.clock import Clock, SteadyClock, elapsed
from exporter.hooks import Hooks
from exporter.http.tls import ssl_context
from exporter.recording.recorder import Recorder
from exporter.recording.stream_listener import Listener, Shared
from exporter.recording.stream_queue import StreamQueue
from exporter.recording.stream_source import StreamSource
from exporter.recording.stream_writer import StreamWriter

_MAX_HANDSHAKES = 64  # handshakes at the same time
_SPREAD_SECONDS = 5.0  # over which the first handshakes of many connections are spread

# A stretch is extended this often if there is anything new: pings come every ten seconds.
_EXTEND_SECONDS = 1.0
_EXTENSIONS_PER_SECOND = 10  # of all connections; with many, each stretch is extended less often

_CLOCK_SECONDS = 1.0  # between two looks whether the wall clock was set

_CLOSE_SECONDS = 3.0  # for all connections
_WRITE_SECONDS = 4.0  # for what they heard last


class Streams:
    """Listen to the sources of a recorder, and record what is heard.

    Args:
        recorder: whose sources and database to use first.
        hooks: receive `StreamChanged` and `EventsRecorded`.
        clock: dates what is heard.
        poll_soon: is called with an account whose next poll is due at once; from the writer.

    Raises:
        ConfigurationError: the certificate authorities that the environment names are not there.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        hooks: Hooks,
        clock: Clock,
        poll_soon: Callable[[str], None],
    ) -> None:
        self._recorder = recorder
        self._asked_at: float | None = None  # whether the event loop moves; None: it does
        self._listeners: dict[tuple[str, str, str | None], Listener] = {}
        self._steady = SteadyClock()
        self._clock_watch: asyncio.Task[None] | None = None
        self._queue = StreamQueue()
        self._writer = StreamWriter(
            self._queue, recorder.stream.target, hooks=hooks, clock=clock, poll_soon=poll_soon
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._shared = Shared(
            queue=self._queue,
            clock=clock,
            steady=lambda: self._steady,
            hooks=hooks,
            tls=ssl_context(),
            handshakes=asyncio.Semaphore(_MAX_HANDSHAKES),
            cooldown=self._cooldown,
            extend_seconds=self._extend_seconds,
        )

    def start(self) -> None:
        """Begin to listen, in threads of its own."""
        self._writer.start()
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin_to_watch_the_clock)
        self._listen_to(self._recorder.stream.sources)

    def use(self, recorder: Recorder) -> None:
        """Listen to this recorder's sources and write to its database from now on.

        Connections that stay notice nothing. Nothing uses the former recorder once this returns.
        """
        self._writer.use(recorder.stream.target)
        self._recorder = recorder
        self._listen_to(recorder.stream.sources)

    def _listen_to(self, sources: Sequence[StreamSource]) -> None:
        asyncio.run_coroutine_threadsafe(self._replace(sources), self._loop).result()

    def stop(self) -> bool:
        """End all connections, and write what they heard.

        Returns:
            Whether all is written, or waits in the spool.
        """
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        self._thread.join(_CLOSE_SECONDS)
        self._queue.close()
        return self._writer.join(_WRITE_SECONDS)

    def hanging(self, seconds: float) -> list[str]:
        """Return the threads that have not moved for this many seconds; call this now and then."""
        if self._asked_at is None:
            self._asked_at = elapsed()
            with suppress(RuntimeError):  # the loop has ended, as it was told to
                self._loop.call_soon_threadsafe(self._answer)
        waited = {
            self._thread.name: elapsed() - (self._asked_at or elapsed()),
            self._writer.name: self._writer.busy_seconds,
        }
        return [name for name, waiting in waited.items() if waiting > seconds]

    def _answer(self) -> None:
        self._asked_at = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _replace(self, sources: Sequence[StreamSource]) -> None:
        wanted = {source.identity: source for source in sources}
        leaving = [self._listeners.pop(each) for each in self._listeners.keys() - wanted.keys()]
        spread = min(_SPREAD_SECONDS, len(wanted) / _MAX_HANDSHAKES)
        for identity, source in wanted.items():
            listener = self._listeners.get(identity)
            if listener is not None:
                listener.replace(source)
            else:
                self._listeners[identity] = listener = Listener(source, self._shared)
                listener.start(delay=random.uniform(0.0, spread))  # noqa: S311  # no secret
        await asyncio.gather(*(listener.stop() for listener in leaving))

    def _begin_to_watch_the_clock(self) -> None:
        self._clock_watch = self._loop.create_task(self._watch_clock())

    async def _watch_clock(self) -> None:
        """Make all connections again once the wall clock was set, or the machine slept."""
        while True:
            await asyncio.sleep(_CLOCK_SECONDS)
            step = self._steady.step()
            if step:
                self._steady = SteadyClock()
                for listener in self._listeners.values():
                    listener.clock_was_set(step)

    async def _stop(self) -> None:
        if self._clock_watch is not None:
            self._clock_watch.cancel()
        await asyncio.gather(*(listener.stop() for listener in self._listeners.values()))
        self._loop.stop()

    def _cooldown(self, account: str) -> float:
        return self._recorder.cooldown(account)

    def _extend_seconds(self) -> float:
        return max(_EXTEND_SECONDS, len(self._listeners) / _EXTENSIONS_PER_SECOND)
