"""The WebSocket under a `stream_connection`: refuses redirects, and notices when the peer is gone.

websockets lets a subclass of its connection be named for that; `process_event` sees each frame,
pings among them, which have no other sign.
"""

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event, State

_MAX_UNSENT = 64 * 1024  # bytes of pongs that a peer leaves unread


class HandshakeRefusedError(Exception):
    """The peer answered the handshake with something else than a WebSocket.

    It stands for `InvalidStatus`, on which `connect` would follow a redirect with our headers.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


class StreamSocket(ClientConnection):
    """A connection that a silent peer cannot keep open.

    Attributes:
        messages: that have arrived, read or not.
        heard: set by each message and ping.
        verdict: why this side gave the connection up, if it did.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.messages = 0
        self.heard = asyncio.Event()
        self.verdict: str | None = None
        self._silence_timeout = 0.0
        self._silent_since = 0.0
        self._waiting = False
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    async def handshake(self, *args: Any, **keywords: Any) -> None:
        """Shake hands, but never to be sent elsewhere."""
        try:
            await super().handshake(*args, **keywords)
        except InvalidStatus as error:
            raise HandshakeRefusedError(error.response) from None

    def data_received(self, data: bytes) -> None:
        """Take data, and end the connection once either side has said goodbye.

        The library would wait for the peer to end it, and take all that it sends until then.
        """
        super().data_received(data)
        if self.protocol.state is State.CLOSING and self._end is None:
            self.transport.close()
            self._end = self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def process_event(self, event: Event) -> None:
        """Note what a frame says of the peer, then let it take its course."""
        if isinstance(event, Frame):
            if event.opcode is Opcode.PING:
                self._silent_since = self.loop.time()
                self.heard.set()
                if self.transport.get_write_buffer_size() > _MAX_UNSENT:
                    self.give_up("the exchange sends pings and does not read the answers")
            elif event.fin and event.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                self.messages += 1
                self.heard.set()
        super().process_event(event)

    def watch(self, silence_timeout: float) -> None:
        """Give the connection up after so many seconds without a message or a ping."""
        self._silence_timeout = silence_timeout
        self._silent_since = self.loop.time()
        self._timer = self.loop.call_later(silence_timeout, self._check)

    async def receive(self) -> bytes:
        """Return the next message, text or binary.

        Raises:
            ConnectionClosed: there is none.
        """
        # Only the time spent here counts: while messages wait to be read, nothing is read from
        # the peer, and it is not to blame.
        self._silent_since = self.loop.time()
        self._waiting = True
        try:
            return await self.recv(decode=False)
        finally:
            self._waiting = False

    def give_up(self, verdict: str) -> None:
        """Drop the connection at once."""
        self.verdict = self.verdict or verdict
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        for timer in (self._timer, self._end):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        left = self._silent_since + self._silence_timeout - self.loop.time()
        if self._waiting and left <= 0:
            self.give_up(f"no message and no ping for {self._silence_timeout:g} s")
            return
        self._timer = self.loop.call_later(left if left > 0 else self._silence_timeout, self._check)
