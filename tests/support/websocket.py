"""WebSocket servers that keep to the protocol only as far as a test wants them to."""

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
    """Accept a handshake, with more header lines if given, and go on by hand."""

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
    """Accept a handshake, acknowledge the subscription as number 1, and go on by hand."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text({"type": "subscribed", "id": 1, "msg": {"sid": 1}}))
        then(connection)

    return websocket(exchange, serve)


def text(message: object) -> bytes:
    """A text frame: JSON, unless it is a text."""
    content = message if isinstance(message, str) else json.dumps(message)
    return frame(Opcode.TEXT, content.encode())


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """Any frame, as a server sends it."""
    # By hand, because the library makes no frames that break the rules.
    head = bytes([fin << 7 | rsv1 << 6 | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 2**16:
        return head + b"\x7e" + struct.pack("!H", len(data)) + data
    return head + b"\x7f" + struct.pack("!Q", len(data)) + data


def event(seq: int, group_id: str = "g", **others: object) -> dict[str, object]:
    """An event of subscription 1."""
    fields = {"event_type": "triggered", "order_group_id": group_id, "ts_ms": 1_764_000_000_120}
    return {"type": "order_group_updates", "sid": 1, "seq": seq, "msg": fields | others}


def wait_for_end(connection: socket.socket) -> None:
    """Read until the client is gone."""
    while connection.recv(65536):
        pass
