"""The local exchange's channel `order_group_updates`: who listens, what they hear, what goes wrong.

Real frames over real sockets: `server` hands an accepted connection to a `Listener`, which keeps
to the protocol by websockets' sans-I/O core.
"""

import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

CHANNEL: Final = "order_group_updates"

# At level DEBUG the library logs each header, the signature among them.
_silent = logging.getLogger(f"{__name__}.frames")
_silent.disabled = True

_READ = 64 * 1024  # bytes
_BATCH = 500  # messages that one system call sends

_Json: TypeAlias = dict[str, Any]
_Work: TypeAlias = Callable[[ServerProtocol], bytes | None]


class Channel:
    """What the listeners of one key hear on one exchange; safe between threads.

    Attributes:
        ping_interval: seconds between two pings; None for none. It holds for later connections, as
            do the next two.
        acknowledge_after: seconds from a subscription to its acknowledgement; None for never.
        buffer_size: messages that may wait for a slow reader before error 25 ends its
            subscription.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.ping_interval: float | None = 10.0
        self.acknowledge_after: float | None = 0.0
        self.buffer_size = 1_000_000
        self._now = now
        self._changed = threading.Condition()
        self._listeners: list[Listener] = []

    @property
    def subscribers(self) -> int:
        """How many connections are subscribed."""
        with self._changed:
            return sum(each.sid is not None for each in self._listeners)

    def wait_for_subscribers(self, count: int, *, seconds: float = 10.0) -> None:
        """Return once this many connections are subscribed; TimeoutError if not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.subscribers == count, seconds):
                raise TimeoutError(f"{self.subscribers} subscribers in {seconds} s, not {count}")

    def tell(
        self, event_type: str, group_id: str, contracts_limit: str | None = None, **others: Any
    ) -> None:
        """Send an event to every subscriber.

        Args:
            event_type: such as "triggered".
            group_id: whose event.
            contracts_limit: sent as `contracts_limit_fp`; None leaves it out.
            others: further fields of the event, sent as they are; `ts_ms` is now unless given.
        """
        fields: _Json = {"event_type": event_type, "order_group_id": group_id}
        if contracts_limit is not None:
            fields["contracts_limit_fp"] = contracts_limit
        fields |= {"ts_ms": int(self._now() * 1000)} | others
        self._each(lambda listener: listener.send_event(fields))

    def say(self, message: _Json | str | bytes) -> None:
        """Send any message to every connection: an object as JSON, bytes as a binary message."""
        self._each(lambda listener: listener.send(message))

    def send_bytes(self, data: bytes) -> None:
        """Put bytes on every connection as they are, whether or not they are a frame."""
        self._each(lambda listener: listener.send_bytes(data))

    def skip(self, count: int = 1) -> None:
        """Let the next event of every subscriber have a number that leaves `count` out."""
        self._each(lambda listener: listener.skip(count))

    def drop(self) -> None:
        """End every connection without a goodbye."""
        self._each(lambda listener: listener.drop())

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Close every connection with a goodbye."""
        self._each(lambda listener: listener.send_close(code, reason))

    def _each(self, act: "Callable[[Listener], None]") -> None:
        # Under the lock, so that all listeners hear events in the same order.
        with self._changed:
            for listener in self._listeners:
                act(listener)

    def serve(self, connection: socket.socket, request: Request) -> None:
        """Serve one connection whose handshake has been judged, until it ends.

        Args:
            connection: blocking; its request has been read and not been answered.
            request: the handshake.
        """
        listener = Listener(connection, self, self._now)
        with self._changed:
            self._listeners.append(listener)
        try:
            listener.run(request)
        finally:
            with self._changed:
                self._listeners.remove(listener)
                self._changed.notify_all()

    def subscribed(self, listener: "Listener", sid: int) -> None:
        """Let a listener hear all events from now on."""
        with self._changed:
            listener.acknowledge(sid)
            self._changed.notify_all()


class Listener:
    """One connection. Its own thread reads; another writes, so that nobody waits for its reader.

    Attributes:
        sid: of the subscription; None while there is none.
    """

    def __init__(
        self, connection: socket.socket, channel: Channel, now: Callable[[], float]
    ) -> None:
        self.sid: int | None = None
        self._seq = 0
        self._command = 0
        self._connection = connection
        self._channel = channel
        self._now = now
        self._protocol = ServerProtocol(max_size=64 * 1024, logger=_silent)
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._timers: list[threading.Timer] = []

    def run(self, request: Request) -> None:
        """Answer the handshake, then read until the connection ends."""
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

    def send_event(self, fields: _Json) -> None:
        """Send an event, if subscribed, with the next number."""
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

    def send(self, message: _Json | str | bytes) -> None:
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
        """Say goodbye."""
        self.sid = None
        self._work.put(lambda protocol: protocol.send_close(code, reason))

    def skip(self, count: int) -> None:
        """Leave numbers out."""
        self._seq += count

    def drop(self) -> None:
        """End the connection without a goodbye."""
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
                    self._obey(bytes(frame.data))

    def _obey(self, text: bytes) -> None:
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

    def _subscribe(self, params: _Json) -> None:
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
                    with suppress(InvalidState):  # the client has said goodbye
                        raw = work(self._protocol)
                        data += [raw] if raw else self._protocol.data_to_send()
                self._send(data)

    def _send(self, data: list[bytes]) -> None:
        self._connection.sendall(b"".join(data))
        if b"" in data:  # how websockets says that the connection is to end
            self._connection.shutdown(socket.SHUT_WR)


def _ping(protocol: ServerProtocol) -> None:
    protocol.send_ping(b"heartbeat")
