"""One WebSocket to the exchange: connect, subscribe, read; a thin shell around `stream_protocol`.

Every step has a deadline, and everything that a peer sends has a bound. A connection never
reconnects: its user decides when, and each connection has a signature of its own.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Literal, Self, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from exporter import __version__
from exporter.errors import StreamError
from exporter.kalshi.auth import auth_headers
from exporter.kalshi.handshake_errors import error_from_exception, error_from_refusal
from exporter.kalshi.keys import SigningKey
from exporter.kalshi.stream_protocol import (
    ChannelError,
    End,
    Ignored,
    InvalidMessage,
    Output,
    SequenceGap,
    StreamProtocol,
    Subscribed,
)
from exporter.kalshi.stream_socket import HandshakeRefusedError, StreamSocket
from exporter.model import OrderGroupEvent
from exporter.text import sanitize

MAX_MESSAGE_SIZE: Final = 256 * 1024
"""Bytes of one message: a thousand times an event, which has about 200."""

_MAX_FRAMES = 64  # messages that wait to be read, with 16 MiB in the worst case
_MAX_TEXT = 200  # characters of what a peer says when it closes

# These are the codes with which this side closes if a frame or a message breaks the rules.
_INVALID = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}

_log = logging.getLogger(__name__)


class StreamConnection:
    """A subscription to the events of one key on one exchange, for as long as its context lasts.

    Entering the context connects, subscribes and waits for the acknowledgement; it may raise a
    `StreamError`. Iterating yields the events, and always ends with a `StreamError`. All of this
    happens on one event loop.

    Args:
        url: of the WebSocket.
        key_id: only its last four characters are ever shown.
        key: signs the handshake.
        now: returns the instant in UTC that dates events, never an earlier one than before.
        steady: the same for what is certain, on a clock that is never set; None to use `now`.
        tls: for wss; connections share it, because it takes a megabyte.
        proxy: the URL of an HTTP proxy that tunnels to the server; None for none. It may hold a
            password.
        open_timeout: seconds for the connection and the handshake together.
        subscribe_timeout: seconds until the acknowledgement.
        silence_timeout: seconds without a message or a ping after which the peer counts as gone.
        close_timeout: seconds for a goodbye.

    Attributes:
        subscribed_at: the instant from which no event is missing, UTC; set by entering.
    """

    subscribed_at: datetime

    def __init__(
        self,
        url: str,
        *,
        key_id: str,
        key: SigningKey,
        now: Callable[[], datetime],
        steady: Callable[[], datetime] | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        open_timeout: float = 10.0,
        subscribe_timeout: float = 10.0,
        silence_timeout: float = 30.0,
        close_timeout: float = 2.0,
    ) -> None:
        self._url = url
        self._key_id = key_id
        self._key = key
        self._now = now
        self._steady = steady
        is_tls = url.startswith("wss:")
        self._tls = tls if is_tls else None
        self._proxy = proxy
        self._open_timeout = open_timeout
        self._subscribe_timeout = subscribe_timeout
        self._silence_timeout = silence_timeout
        self._close_timeout = close_timeout
        self._protocol = StreamProtocol()
        self._socket: StreamSocket | None = None
        self._taken = 0
        self._received_at: datetime
        self._proven_until: datetime | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._subscribe(await self._open())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection with a goodbye; do nothing if it is closed."""
        if self._socket is not None:
            await self._socket.close()

    def give_up(self, reason: str) -> None:
        """Drop the connection at once, because of something on this machine."""
        if self._socket is not None:
            self._socket.give_up(reason, "not_listening")

    @property
    def certain_until(self) -> datetime:
        """The instant up to which no event is missing, UTC; read it after handling all events.

        An event that arrives proves nothing about those in flight. So this is the sending of the
        last ping that the exchange has answered: all that it had sent until then has arrived. For
        an exchange that answers no pings, the arrival of its last message counts.
        """
        self._prove()
        return self._received_at if self._proven_until is None else self._proven_until

    async def __aiter__(self) -> AsyncIterator[OrderGroupEvent]:
        """Yield the events in the order sent.

        Raises:
            StreamError: always, at the end: why the stretch ended, and up to when it is certain.
        """
        socket = self._opened()
        while True:
            output = await self._receive(socket)
            if isinstance(output, OrderGroupEvent):
                yield output
            elif not isinstance(output, Ignored | Subscribed):
                if isinstance(output, SequenceGap) and output.event is not None:
                    yield output.event
                raise self._ended(output)

    def _opened(self) -> StreamSocket:
        if self._socket is None:
            raise RuntimeError("the connection is not open: enter its context first")
        return self._socket

    async def _open(self) -> StreamSocket:
        headers = auth_headers(self._key_id, self._key, urlsplit(self._url).path)
        began = time.time()
        try:
            connected = await connect(
                self._url,
                additional_headers=headers,
                user_agent_header=f"kalshi-exporter/{__version__}",
                compression=None,
                proxy=self._proxy,
                ssl=self._tls,
                open_timeout=self._open_timeout,
                ping_interval=None,  # the exchange pings
                close_timeout=self._close_timeout,
                max_size=MAX_MESSAGE_SIZE,
                max_queue=_MAX_FRAMES,
                logger=_silent(),
                create_connection=StreamSocket,
                happy_eyeballs_delay=0.25,
            )
        except HandshakeRefusedError as error:
            raise error_from_refusal(
                error.response, sent=headers, began=began, key_hint=f"…{self._key_id[-4:]}"
            ) from None
        except Exception as error:
            # The library and asyncio each raise errors of their own for a hostile or broken peer.
            raise error_from_exception(
                error, self._url, proxy=self._proxy, open_timeout=self._open_timeout
            ) from error
        self._socket = cast("StreamSocket", connected)
        return self._socket

    async def _subscribe(self, socket: StreamSocket) -> None:
        try:
            async with asyncio.timeout(self._subscribe_timeout):
                await socket.send(self._protocol.subscribe())
                while True:
                    output = await self._receive(socket)
                    if isinstance(output, Subscribed):
                        break
                    if isinstance(output, SequenceGap | ChannelError | InvalidMessage):
                        raise self._ended(output)
        except TimeoutError:
            raise StreamError(
                "the exchange did not acknowledge the subscription within"
                f" {self._subscribe_timeout:g} s",
                cause="unreachable",
            ) from None
        except ConnectionClosed as error:
            raise self._closed(socket, error) from error
        self.subscribed_at = self._received_at
        socket.watch(self._silence_timeout, self._steady or self._now)

    async def _receive(self, socket: StreamSocket) -> Output:
        try:
            message = await socket.receive()
        except ConnectionClosed as error:
            raise self._closed(socket, error) from error
        self._taken += 1
        now = self._now()
        self._received_at = socket.read_at or (now if self._steady is None else self._steady())
        output = self._protocol.receive(message, now, self._received_at)
        if isinstance(output, Ignored):
            _log.debug("ignored %s", output.reason)
        if socket.proof is not None:
            self._prove()
        return output

    def _prove(self) -> None:
        """Accept a proof once all messages that arrived before it have been read."""
        socket = self._opened()
        if socket.proof is not None and self._taken >= socket.proof[0]:
            self._proven_until = socket.proof[1]
            socket.proof = None

    def _ended(self, end: End) -> StreamError:
        code = end.code if isinstance(end, ChannelError) else None
        return StreamError(
            end.reason,
            cause=end.cause,
            certain_until=self._certain_until_end(
                None if isinstance(end, InvalidMessage) else end.intact_until
            ),
            code=None if code is None else str(code),
            message=end.text if isinstance(end, ChannelError) else None,
        )

    def _closed(self, socket: StreamSocket, error: ConnectionClosed) -> StreamError:
        cause: Literal["disconnected", "invalid_message", "not_listening"] = "disconnected"
        if error.sent and error.sent.code in _INVALID and not error.rcvd_then_sent:
            cause = "invalid_message"
            reason = f"a message was not valid: {sanitize(str(error.sent), _MAX_TEXT)}"
        elif socket.verdict is not None:
            reason, cause = socket.verdict, socket.verdict_cause
        elif error.rcvd:
            reason = f"the exchange closed the connection: {sanitize(str(error.rcvd), _MAX_TEXT)}"
        else:
            reason = "the connection was lost"
            if isinstance(error.__cause__, OSError):
                reason += f": {sanitize(str(error.__cause__), _MAX_TEXT)}"
        return StreamError(reason, cause=cause, certain_until=self._certain_until_end(None))

    def _certain_until_end(self, intact_until: datetime | None) -> datetime | None:
        if not hasattr(self, "subscribed_at"):
            return None
        return max(self.subscribed_at, intact_until or self.certain_until)


def _silent() -> logging.Logger:
    """Return a logger for the library, which would log each frame and each signed header."""
    logger = logging.getLogger(f"{__name__}.frames")
    logger.disabled = True
    return logger
