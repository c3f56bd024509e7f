"""A local HTTP proxy that tunnels, or misbehaves on request."""

import contextlib
import socket
import threading
import time


class Proxy:
    """A proxy that tunnels CONNECT requests.

    Attributes:
        heads: the head of each request so far.
        response: if set, the proxy sends this instead of opening a tunnel.
        drip: if set, the proxy sends one response header after another, without end.
    """

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.response: bytes | None = None
        self.drip = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """The proxy's host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Close every connection, and accept no more."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (block := client.recv(4096)):
                    return
                head += block
            self.heads.append(head.decode("latin-1"))
            if self.drip:
                client.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    client.sendall(b"X-Slow: 1\r\n")
                    time.sleep(0.05)
            if self.response is not None:
                client.sendall(self.response)
                client.close()
                return
            host, _, port = head.split(b" ")[1].decode().rpartition(":")
            server = socket.create_connection((host, int(port)))
            self._open.append(server)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pump, args=[server, client], daemon=True).start()
            _pump(client, server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
