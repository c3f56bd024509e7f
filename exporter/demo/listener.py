"""One listener of the local exchange's channel: an accepted connection that follows the protocol.

It sends real frames over a real socket, with websockets' sans-I/O core.
"""

import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

CHANNEL: Final = "order_group_updates"

_READ = 64 * 1024  # bytes
_BATCH = 500  # messages that one system call sends

Json: TypeAlias = dict[str, Any]
_Work: TypeAlias = Callable[[ServerProtocol], bytes | None]


class Conditions(Protocol):
    """The conditions that a channel sets for its listeners; see `exporter.demo.channel.Channel`."""

    ping_interval: float | None
    acknowledge_after: float | None
    buffer_size: int

    def subscribed(self, listener: "Listener", sid: int) -> None:
        """Send a listener all events from now on."""


class Listener:
    """One connection, with a thread that reads, and one that writes so that no sender waits.

    Args:
        connection: a blocking socket from which the handshake has been read.
        channel: the channel, which sets the conditions.
        now: returns the seconds since the epoch, by the exchange's clock.

    Attributes:
        sid: the subscription's id; None while there is none.
    """

    def __init__(
        self, connection: socket.socket, channel: Conditions, now: Callable[[], float]
    ) -> None:
        self.sid: int | None = None
        self._seq = 0
        self._command = 0
        self._connection = connection
        self._channel = channel
        self._now = now
        self._protocol = ServerProtocol(max_size=64 * 1024, logger=_silent())
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._timers: list[threading.Timer] = []

    def run(self, request: Request) -> None:
        """Accept the handshake, then read until the connection ends."""
        with self._lock:
            self._protocol.receive_data(request.serialize())
            self._protocol.events_received()
            self._protocol.send_response(self._protocol.accept(request))
            self._connection.sendall(b"".join(self._protocol.data_to_send()))
        writer = threading.Thread(target=self._write, name="listener", daemon=True)
        writer.start()
        try:
            with suppress(OSError):
                self._read()
        finally:
            for timer in self._timers:
                timer.cancel()
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._work.put(None)
            writer.join()

    def send_event(self, fields: Json) -> None:
        """Send an event with the next sequence number, if the client is subscribed."""
        if self.sid is None:
            return
        if self._work.qsize() >= self._channel.buffer_size:
            error = {"code": 25, "msg": "Subscription buffer overflow"}
            self.send({"type": "error", "sid": self.sid, "msg": error})
            self.sid = None
            return
        self._seq += 1
        sent = {"sid": self.sid, "seq": self._seq, "sending_ts_ms": int(self._now() * 1000)}
        self.send({"type": CHANNEL, **sent, "msg": fields})

    def send(self, message: Json | str | bytes) -> None:
        """Send a message."""
        if isinstance(message, bytes):
            self._work.put(lambda protocol: protocol.send_binary(message))
            return
        text = json.dumps(message, separators=(",", ":")) if isinstance(message, dict) else message
        self._work.put(lambda protocol: protocol.send_text(text.encode()))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._work.put(lambda _: data)

    def send_close(self, code: int, reason: str) -> None:
        """Close the connection with a close frame."""
        self.sid = None
        self._work.put(lambda protocol: protocol.send_close(code, reason))

    def skip(self, count: int) -> None:
        """Skip sequence numbers."""
        self._seq += count

    def drop(self) -> None:
        """Cut the connection without a close frame."""
        self.sid = None
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def acknowledge(self, sid: int) -> None:
        """Confirm the subscription."""
        self.send(
            {"id": self._command, "type": "subscribed", "msg": {"channel": CHANNEL, "sid": sid}}
        )
        self.sid = sid

    def _read(self) -> None:
        while data := self._connection.recv(_READ):
            with self._lock:
                self._protocol.receive_data(data)
                frames = self._protocol.events_received()
                self._send(self._protocol.data_to_send())
            for frame in frames:
                if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                    self._execute(bytes(frame.data))

    def _execute(self, text: bytes) -> None:
        try:
            command = json.loads(text)
            self._command, name = command["id"], command["cmd"]
            params = command.get("params", {})
        except (ValueError, TypeError, KeyError, AttributeError):
            self._refuse(None, 1, "Unable to process message")
            return
        if name == "subscribe":
            self._subscribe(params)
        elif name == "unsubscribe" and self.sid in params.get("sids", ()):
            self._seq += 1
            self.send(
                {"id": self._command, "type": "unsubscribed", "sid": self.sid, "seq": self._seq}
            )
            self.sid = None
        elif name == "unsubscribe":
            self._refuse(self._command, 7, "Unknown subscription ID")
        else:
            self._refuse(self._command, 5, "Unknown command")

    def _subscribe(self, params: Json) -> None:
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            self._refuse(self._command, 2, "Params required")
        elif channels != [CHANNEL]:
            self._refuse(self._command, 8, "Unknown channel name")
        elif self.sid is not None:
            self._refuse(self._command, 6, "Already subscribed")
        elif self._channel.acknowledge_after is not None:
            wait = self._channel.acknowledge_after
            if wait:
                timer = threading.Timer(wait, self._channel.subscribed, (self, 1))
                self._timers.append(timer)
                timer.start()
            else:
                self._channel.subscribed(self, 1)

    def _refuse(self, command: int | None, code: int, text: str) -> None:
        known = {} if command is None else {"id": command}
        self.send({**known, "type": "error", "msg": {"code": code, "msg": text}})

    def _write(self) -> None:
        interval = self._channel.ping_interval
        ping_at = time.monotonic() + (interval or 0.0)
        while True:
            works: list[_Work | None] = []
            with suppress(queue.Empty):
                timeout = None if interval is None else max(ping_at - time.monotonic(), 0.0)
                works.append(self._work.get(timeout=timeout))
                while len(works) < _BATCH:
                    works.append(self._work.get_nowait())
            if interval is not None and time.monotonic() >= ping_at:
                ping_at = time.monotonic() + interval
                works.append(_ping)
            with suppress(OSError), self._lock:
                data: list[bytes] = []
                for work in works:
                    if work is None:
                        return
                    with suppress(InvalidState):  # the client has closed the connection
                        raw = work(self._protocol)
                        data += [raw] if raw else self._protocol.data_to_send()
                self._send(data)

    def _send(self, data: list[bytes]) -> None:
        self._connection.sendall(b"".join(data))
        if b"" in data:  # websockets marks the connection's end by empty data
            self._connection.shutdown(socket.SHUT_WR)


def _ping(protocol: ServerProtocol) -> None:
    protocol.send_ping(b"heartbeat")


def _silent() -> logging.Logger:
    """Return a logger for the library, which at level DEBUG logs each header with its signature."""
    logger = logging.getLogger(f"{__name__}.frames")
    logger.disabled = True
    return logger
