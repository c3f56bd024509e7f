"""The local exchange's channel `order_group_updates`: its listeners, events and faults."""

import socket
import threading
from collections.abc import Callable
from typing import Any

from websockets.http11 import Request

from exporter.demo.listener import Json, Listener


class Channel:
    """The channel of one key on one exchange; safe between threads.

    A change of an attribute applies to connections that are made later.

    Attributes:
        ping_interval: seconds between two pings; None for none.
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
        """Return the number of subscribed connections."""
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
            group_id: the id of the event's group.
            contracts_limit: sent as `contracts_limit_fp`; None leaves it out.
            others: further fields of the event, sent as they are; `ts_ms` is now unless given.
        """
        fields: Json = {"event_type": event_type, "order_group_id": group_id}
        if contracts_limit is not None:
            fields["contracts_limit_fp"] = contracts_limit
        fields |= {"ts_ms": int(self._now() * 1000)} | others
        self._each(lambda listener: listener.send_event(fields))

    def say(self, message: Json | str | bytes) -> None:
        """Send any message to every connection: an object as JSON, bytes as a binary message."""
        self._each(lambda listener: listener.send(message))

    def send_bytes(self, data: bytes) -> None:
        """Send raw bytes on every connection, whether or not they are a valid frame."""
        self._each(lambda listener: listener.send_bytes(data))

    def skip(self, count: int = 1) -> None:
        """Skip `count` sequence numbers before the next event of every subscriber."""
        self._each(lambda listener: listener.skip(count))

    def drop(self) -> None:
        """Cut every connection without a close frame."""
        self._each(lambda listener: listener.drop())

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Close every connection with a close frame."""
        self._each(lambda listener: listener.send_close(code, reason))

    def _each(self, act: Callable[[Listener], None]) -> None:
        # The lock makes all listeners receive events in the same order.
        with self._changed:
            for listener in self._listeners:
                act(listener)

    def serve(self, connection: socket.socket, request: Request) -> None:
        """Serve one connection with an accepted handshake until it ends.

        Args:
            connection: a blocking socket from which the request has been read.
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

    def subscribed(self, listener: Listener, sid: int) -> None:
        """Send a listener all events from now on."""
        with self._changed:
            listener.acknowledge(sid)
            self._changed.notify_all()
