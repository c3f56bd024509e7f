"""Sockets that keep one deadline and one bound on bytes for a whole response.

requests and urllib3 bound each single wait, so they wait without end for a peer that sends a byte
now and then. Here the timeout that urllib3 sets on a connection before it reads a response limits
the whole response, from the status line to the last byte.
"""

import io
import math
import socket
from typing import Any

from exporter.clock import elapsed

_BUFFER = 64 * 1024  # bytes
_SLACK = 0.005  # seconds by which a deadline may be missed


class TooManyBytesError(Exception):
    """The peer sent more bytes than any acceptable response has.

    Not an OSError, because urllib3 would take that for a lost connection.
    """


class DeadlineSocket:
    """A connected socket as http.client and urllib3 use one, with a deadline and a byte bound.

    Args:
        connected: the real socket, plain or TLS.
        ends_at: when sending the first request must be done, by `elapsed()`.
        byte_limit: bytes that one response may have, before any decoding.
    """

    def __init__(self, connected: socket.socket, ends_at: float, byte_limit: int) -> None:
        self._socket = connected
        self._ends_at = ends_at
        self._byte_limit = byte_limit
        self._bytes_left = byte_limit
        self._bound = math.inf  # seconds, the real socket's timeout as this object has set it
        self._source: io.RawIOBase | None = None

    @property
    def silent(self) -> bool:
        """Whether no byte of the present response has arrived."""
        return self._bytes_left == self._byte_limit

    def settimeout(self, seconds: float) -> None:
        """Begin another round trip: all that follows may take `seconds` in total.

        urllib3 calls this before it sends on a kept connection, and before it reads a response.
        """
        self._ends_at = elapsed() + seconds
        self._bytes_left = self._byte_limit

    def sendall(self, data: bytes) -> None:
        """Send inside the deadline."""
        self._bound_next_wait()
        self._socket.sendall(data)

    def receive_into(self, source: io.RawIOBase, buffer: Any) -> int | None:
        """Read once, as `io.RawIOBase.readinto` does.

        Raises:
            TimeoutError: the deadline passed.
            TooManyBytesError: the response is larger than the bound.
        """
        self._bound_next_wait()
        count = source.readinto(buffer)
        self._bytes_left -= count or 0
        if self._bytes_left < 0:
            raise TooManyBytesError
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered file that keeps the deadline and the bound; http.client reads it."""
        # The socket's own file keeps the descriptor open when http.client closes the socket of a
        # response that it has yet to read.
        make: Any = self._socket.makefile
        source: io.RawIOBase = make(mode, buffering=0)
        self._source = source
        return io.BufferedReader(_DeadlineReader(self, source), _BUFFER)

    def abandon(self) -> None:
        """Close the response's file too, which releases the descriptor.

        This closes only the raw file below the buffer, because http.client flushes the buffer once
        more when it is collected.
        """
        if self._source is not None:
            self._source.close()
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, by which urllib3 sees that the peer has closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _bound_next_wait(self) -> None:
        remaining = self._ends_at - elapsed()
        if remaining <= 0:
            raise TimeoutError("the deadline passed")
        # One call into a TLS socket may take several packets; Python's ssl module bounds them
        # together by this timeout. Each change of it is a system call.
        if abs(remaining - self._bound) > _SLACK:
            self._socket.settimeout(remaining)
            self._bound = remaining


class _DeadlineReader(io.RawIOBase):
    def __init__(self, owner: DeadlineSocket, source: io.RawIOBase) -> None:
        self._owner = owner
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._owner.receive_into(self._source, buffer)

    def close(self) -> None:
        self._source.close()
        super().close()
