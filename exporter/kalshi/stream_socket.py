"""The WebSocket of a `stream_connection`: it refuses redirects and detects that the peer is gone.

It subclasses the connection of websockets, because only `process_event` sees each frame, pings
included.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event, State

if TYPE_CHECKING:
    from asyncio import TimerHandle

_PROBE = b"received?"
_PROBE_INTERVAL = 0.2  # seconds from one ping to the next at least

_MAX_UNSENT = 64 * 1024  # bytes of pongs that a peer leaves unread


class HandshakeRefusedError(Exception):
    """The peer responded to the handshake without opening a WebSocket.

    This replaces `InvalidStatus`, on which `connect` would follow a redirect with our headers.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


class StreamSocket(ClientConnection):
    """A connection that a silent peer cannot keep open, and that proves what has arrived.

    After each message and ping it sends a ping itself. Once the pong is here, so is everything
    that the peer sent before it received the ping.

    Attributes:
        messages: how many have arrived, read or not.
        read_at: when data arrived last, by the clock that `watch` was given; None before.
        proof: a number of messages, and the sending of the ping whose pong came after them. The
            reader takes it away once it has read that many messages.
        verdict: why this side gave the connection up; None if it did not.
        verdict_cause: of the gap that begins then.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.messages = 0
        self.read_at: datetime | None = None
        self.proof: tuple[int, datetime] | None = None
        self.verdict: str | None = None
        self.verdict_cause: Literal["disconnected", "not_listening"] = "disconnected"
        self._now: Callable[[], datetime] | None = None
        self._silence_timeout = 0.0
        self._silent_since = 0.0
        self._waiting = False
        self._unproven = False
        self._probed_at: datetime | None = None
        self._next_probe = 0.0
        self._check_timer: TimerHandle | None = None
        self._probe_timer: TimerHandle | None = None
        self._end_timer: TimerHandle | None = None

    async def handshake(self, *args: Any, **keywords: Any) -> None:
        """Shake hands, but never follow a redirect."""
        try:
            await super().handshake(*args, **keywords)
        except InvalidStatus as error:
            raise HandshakeRefusedError(error.response) from None

    def data_received(self, data: bytes) -> None:
        """Take data, and end the connection once either side has said goodbye.

        The library would wait for the peer to end it, and accept everything sent until then.
        """
        if self._now is not None:
            self.read_at = self._now()
        super().data_received(data)
        if self.protocol.state is State.CLOSING and self._end_timer is None:
            self.transport.close()
            self._end_timer = self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def process_event(self, event: Event) -> None:
        """Note what a frame says about the peer, then process it as usual."""
        if isinstance(event, Frame):
            if event.opcode in DATA_OPCODES:
                if event.fin:
                    self.messages += 1
                    self._heard()
            elif event.opcode is Opcode.PING:
                self._silent_since = self.loop.time()
                self._heard()
                if self.transport.get_write_buffer_size() > _MAX_UNSENT:
                    self.give_up("the exchange sends pings and does not read the answers")
            elif event.opcode is Opcode.PONG:
                self._answered(bytes(event.data))
        super().process_event(event)

    def watch(self, silence_timeout: float, now: Callable[[], datetime]) -> None:
        """Begin to send pings, and to watch for silence.

        Args:
            silence_timeout: seconds without a message or a ping after which to give up.
            now: returns the instant in UTC at which pings are dated.
        """
        self._now = now
        self._silence_timeout = silence_timeout
        self._silent_since = self.loop.time()
        self._check_timer = self.loop.call_later(silence_timeout, self._check)
        self._heard()

    async def receive(self) -> bytes:
        """Return the next message, text or binary.

        Raises:
            ConnectionClosed: there are no more.
        """
        # Only time spent waiting here counts as silence: while messages wait to be read, the
        # socket is not read, and the peer is not to blame.
        self._silent_since = self.loop.time()
        self._waiting = True
        try:
            return await self.recv(decode=False)
        finally:
            self._waiting = False

    def give_up(
        self, verdict: str, cause: Literal["disconnected", "not_listening"] = "disconnected"
    ) -> None:
        """Drop the connection at once."""
        if self.verdict is None:
            self.verdict, self.verdict_cause = verdict, cause
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        for timer in (self._check_timer, self._probe_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _heard(self) -> None:
        self._unproven = True
        if self._probe_timer is None and self._probed_at is None:
            self._probe()

    def _probe(self) -> None:
        self._probe_timer = None
        if self._now is None or self.protocol.state is not State.OPEN:
            return
        wait = self._next_probe - self.loop.time()
        if wait > 0:
            self._probe_timer = self.loop.call_later(wait, self._probe)
            return
        self._unproven = False
        self._next_probe = self.loop.time() + _PROBE_INTERVAL
        self._probed_at = self._now()
        # `ping` would need a task for each ping, which is slow with a thousand idle connections.
        self.protocol.send_ping(_PROBE)
        self.send_data()

    def _answered(self, data: bytes) -> None:
        if data != _PROBE or self._probed_at is None:
            return
        # A later proof must not replace one whose messages have not all been read.
        if self.proof is None or self.proof[0] == self.messages:
            self.proof = (self.messages, self._probed_at)
        self._probed_at = None
        if self._unproven:
            self._probe()

    def _check(self) -> None:
        left = self._silent_since + self._silence_timeout - self.loop.time()
        if self._waiting and left <= 0:
            self.give_up(f"no message and no ping for {self._silence_timeout:g} s")
            return
        self._check_timer = self.loop.call_later(
            left if left > 0 else self._silence_timeout, self._check
        )
