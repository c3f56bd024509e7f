"""The sockets of the local exchange: one thread per connection, responses at any pace."""

import socket
import struct
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake

from exporter.demo.answers import Answer, Request
from exporter.demo.channel import Channel


class Answering(Protocol):
    """A source of responses.

    Attributes:
        closing: once this is set, slow responses break off.
    """

    closing: threading.Event

    def now(self) -> float:
        """Return the seconds since the epoch, for the header."""

    def answer(self, method: str, request: Request) -> Answer:
        """Return the response to a request."""

    def listen(self, request: Request) -> Answer | Channel:
        """Return the response to a handshake: a refusal, or the channel to listen to."""


class Server(HTTPServer):
    """A server with a daemon thread per connection; closing the server ends and joins them all."""

    request_queue_size = 128

    def __init__(self, exchange: Answering) -> None:
        self.exchange = exchange
        self._connections: list[tuple[socket.socket, threading.Thread]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the address, which can take seconds."""
        super(HTTPServer, self).server_bind()
        self.server_port = self.server_address[1]

    # ThreadingMixIn has either daemon threads, which it does not join, or threads that keep a
    # crashed process alive.
    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="connection", daemon=True
        )
        alive = [pair for pair in self._connections if pair[1].is_alive()]
        self._connections = [*alive, (request, thread)]
        thread.start()

    def drop_connections(self) -> None:
        """End every connection; their threads then find nothing more to read."""
        for connection, _ in self._connections:
            with suppress(OSError):  # closed in the meantime
                connection.shutdown(socket.SHUT_RDWR)

    def server_close(self) -> None:
        """Stop listening, end every connection and wait for its thread."""
        super().server_close()
        self.drop_connections()
        for _, thread in self._connections:
            thread.join()

    def _serve(self, connection: socket.socket, client_address: object) -> None:
        try:
            # A client with a deadline may go away in the middle of a response; that is no error.
            with suppress(ConnectionError):
                self.finish_request(connection, client_address)
        finally:
            # A shutdown first would end the connection in order, even where a script wants a reset.
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """A handler that reads the requests of one connection and sends the exchange's responses."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Respond to one request."""
        exchange = self.server.exchange
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            received_at=time.time(),
            key_id=headers.get("kalshi-access-key"),
            path=url.path,
            query={name: values[-1] for name, values in parse_qs(url.query).items()},
            headers=headers,
        )
        if headers.get("upgrade", "").lower() != "websocket":
            self._send(exchange.answer("GET", request))
            return
        self.close_connection = True
        channel = exchange.listen(request)
        if isinstance(channel, Answer):
            self._send(channel)
        else:
            handshake = Handshake(self.path, Headers(self.headers.items()))
            channel.serve(self.connection, handshake)

    def log_message(self, *_: object) -> None:
        """Log nothing: `Exchange.requests` records what happened."""

    def _send(self, answer: Answer) -> None:
        exchange = self.server.exchange
        if exchange.closing.wait(answer.delay) or answer.ending in {"closed", "reset"}:
            self.close_connection = True
            if answer.ending == "reset":
                # Closing with a linger time of zero sends a reset instead of an orderly end.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        headers = {
            "Date": formatdate(exchange.now(), usegmt=True),
            "Content-Type": "application/json",
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        head = f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('',))[0]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        body = answer.body
        if answer.ending == "truncated":
            body = body[: len(body) // 2]
        if answer.ending == "truncated" or headers.get("Connection") == "close":
            self.close_connection = True
        pieces = ((f"{head}\r\n".encode("latin-1"), answer.head_pace), (body, answer.pace))
        if answer.head_pace or answer.pace:
            for data, pace in pieces:
                self._drip(data, pace)
        else:
            self.wfile.write(b"".join(data for data, _ in pieces))

    def _drip(self, data: bytes, pace: float) -> None:
        size = 1 if pace else len(data)
        for start in range(0, len(data), size or 1):
            if self.server.exchange.closing.wait(pace):
                self.close_connection = True
                return
            self.wfile.write(data[start : start + size])
