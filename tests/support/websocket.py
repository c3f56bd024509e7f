"""WebSocket servers that break the protocol wherever a test wants them to."""

import json
import socket
import struct
from collections.abc import Callable

from websockets.frames import Opcode
from websockets.utils import accept_key

from tests.support.servers import Exchange


def websocket(
    exchange: Exchange, then: Callable[[socket.socket], None], *headers: str
) -> Callable[[socket.socket], None]:
    """Return a server that accepts a handshake and then calls `then` with the raw socket.

    Args:
        exchange: where the handshake arrived.
        then: gets the socket after the handshake.
        headers: further lines of the response to the handshake.
    """

    def serve(connection: socket.socket) -> None:
        sent = {name.lower(): value for name, value in exchange.requests[-1].headers.items()}
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(sent['sec-websocket-key'])}",
            *headers,
        ]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        then(connection)

    return serve


def subscribed(
    exchange: Exchange, then: Callable[[socket.socket], None]
) -> Callable[[socket.socket], None]:
    """Return a server that also acknowledges the subscription, as `sid` 1, before `then`."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text({"type": "subscribed", "id": 1, "msg": {"sid": 1}}))
        then(connection)

    return websocket(exchange, serve)


def text(message: object) -> bytes:
    """Return a text frame with a string as it is, or with any other value as JSON."""
    content = message if isinstance(message, str) else json.dumps(message)
    return frame(Opcode.TEXT, content.encode())


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """Return a frame as a server sends it, without a mask."""
    # The frame is built by hand because the library builds no invalid frames.
    head = bytes([fin << 7 | rsv1 << 6 | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 2**16:
        return head + b"\x7e" + struct.pack("!H", len(data)) + data
    return head + b"\x7f" + struct.pack("!Q", len(data)) + data


def event(seq: int, group_id: str = "g", **others: object) -> dict[str, object]:
    """Return an event of subscription 1."""
    fields = {"event_type": "triggered", "order_group_id": group_id, "ts_ms": 1_764_000_000_120}
    return {"type": "order_group_updates", "sid": 1, "seq": seq, "msg": fields | others}


def wait_for_end(connection: socket.socket) -> None:
    """Read until the client closes the connection."""
    while connection.recv(65536):
        pass
