"""Connections that keep a total deadline and a bound on bytes; `session` sends through them.

requests and urllib3 bound each single wait, so that a peer who sends a byte now and then is waited
for without end. Here the timeout that urllib3 sets on a connection before it reads an answer is
the time that all of that answer may take, from the status line to the last byte.
"""

import functools
import io
import logging
import queue
import socket
import threading
from collections.abc import Sequence
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from exporter.clock import elapsed

# Room for the header, interim answers and the framing of chunks, beside the body.
_OVERHEAD = 1024 * 1024  # bytes

_BUFFER = 64 * 1024  # bytes

# urllib3 logs an unreadable header as a warning with a traceback, and quotes it as it came. All
# that matters in it reaches the operator as one line of `session`'s.
logging.getLogger("urllib3").setLevel(logging.ERROR)

# What socket.getaddrinfo returns.
_Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]


class TooManyBytesError(Exception):
    """The peer sends more than any acceptable answer has.

    Not an OSError, because urllib3 would take that for a lost connection.
    """


class _DeadlineSocket:
    """A connected socket as http.client and urllib3 use one, inside a deadline and a byte bound.

    Args:
        connected: the real one, plain or TLS.
        ends_at: when sending the first request must be done, by `elapsed()`.
        byte_limit: how much one answer may send, before any decoding.
    """

    def __init__(self, connected: socket.socket, ends_at: float, byte_limit: int) -> None:
        self._socket = connected
        self._ends_at = ends_at
        self._byte_limit = byte_limit
        self._bytes_left = byte_limit
        self._source: io.RawIOBase | None = None

    def settimeout(self, seconds: float) -> None:
        """Begins a new exchange: all that follows may take so many seconds in total.

        urllib3 calls this before it sends on a kept connection, and before it reads an answer.
        """
        self._ends_at = elapsed() + seconds
        self._bytes_left = self._byte_limit

    def sendall(self, data: bytes) -> None:
        self._bound_next_wait()
        self._socket.sendall(data)

    def receive_into(self, source: io.RawIOBase, buffer: Any) -> int | None:
        """Reads once, as `io.RawIOBase.readinto` does.

        Raises:
            TimeoutError: the deadline passed.
            TooManyBytesError: the bound on bytes is passed.
        """
        self._bound_next_wait()
        count = source.readinto(buffer)
        self._bytes_left -= count or 0
        if self._bytes_left < 0:
            raise TooManyBytesError
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        # The socket's own file keeps the descriptor open when http.client closes the socket of an
        # answer that it has yet to read.
        source = cast("io.RawIOBase", self._socket.makefile(cast("Any", mode), buffering=0))
        self._source = source
        return io.BufferedReader(_DeadlineReader(self, source), _BUFFER)

    def abandon(self) -> None:
        """Closes the file of the answer too, at which the descriptor ends.

        Only what lies under it: http.client flushes it once more at the end of its life.
        """
        if self._source is not None:
            self._source.close()
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _bound_next_wait(self) -> None:
        remaining = self._ends_at - elapsed()
        if remaining <= 0:
            raise TimeoutError("the deadline passed")
        # One call into a TLS socket may take several packets; OpenSSL's caller in Python bounds
        # them together by this timeout.
        self._socket.settimeout(remaining)


class _DeadlineReader(io.RawIOBase):
    def __init__(self, owner: _DeadlineSocket, source: io.RawIOBase) -> None:
        self._owner = owner
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._owner.receive_into(self._source, buffer)

    def close(self) -> None:
        self._source.close()
        super().close()


class _DeadlineHTTPConnection(HTTPConnection):
    def __init__(self, *args: Any, byte_limit: int, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._byte_limit = byte_limit

    def connect(self) -> None:
        """Name lookup, connection and TLS handshake, all inside `self.timeout` seconds."""
        self._ends_at = elapsed() + cast("float", self.timeout)
        super().connect()
        self.sock = cast(
            "socket.socket", _DeadlineSocket(self.sock, self._ends_at, self._byte_limit)
        )

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 itself overrides it
        """The answer's header, as urllib3's connection gives it."""
        connected = cast("_DeadlineSocket", self.sock)
        try:
            return super().getresponse()
        except BaseException:
            # urllib3 leaves an answer open whose header it finds contradictory.
            connected.abandon()
            raise

    def _new_conn(self) -> socket.socket:
        try:
            connected = _connect(
                _look_up(self._dns_host.strip("[]"), self.port, self._ends_at), self._ends_at
            )
            for option in self.socket_options or ():
                connected.setsockopt(*option)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error
        return connected


class _DeadlineHTTPSConnection(_DeadlineHTTPConnection, HTTPSConnection):
    """The same; `super().connect()` there is HTTPSConnection's, which does the handshake."""


class _DeadlineHTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineHTTPConnection


class _DeadlineHTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlineHTTPSConnection


class DeadlineAdapter(HTTPAdapter):
    """An adapter for a `requests.Session` whose timeout is the total time of an exchange.

    Pass `timeout=urllib3.Timeout(total=seconds)`. One connection is kept alive; nothing is
    retried, because each attempt needs a signature of its own.

    Args:
        body_limit: bytes of the largest body that is acceptable.
    """

    def __init__(self, body_limit: int) -> None:
        self._byte_limit = body_limit + _OVERHEAD
        self._pool: ConnectionPool | None = None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> ConnectionPool:
        """Gives the pool of the one exchange; requests would look for it anew each time."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def close(self) -> None:
        """Ends the connection; requests calls it."""
        self._pool = None
        super().close()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Makes urllib3 use the connections of this module; requests calls it."""
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": functools.partial(_DeadlineHTTPConnectionPool, byte_limit=self._byte_limit),
            "https": functools.partial(_DeadlineHTTPSConnectionPool, byte_limit=self._byte_limit),
        }


def _look_up(host: str, port: int, ends_at: float) -> _Addresses:
    """The addresses of a host.

    Raises:
        socket.gaierror: there are none.
        TimeoutError: the answer did not come in time.
        UnicodeError: the name cannot be one.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name, not an address: it has to be asked for
    answers: queue.SimpleQueue[_Addresses | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            answers.put(error)

    # The C library's lookup heeds no deadline and cannot be interrupted: a thread may be left
    # behind in it, until the resolver's own timeout or the end of the process.
    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(ends_at - elapsed(), 0.001))
    except queue.Empty:
        raise TimeoutError(f"the name lookup of {host} did not end in time") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _connect(addresses: _Addresses, ends_at: float) -> socket.socket:
    """A socket connected to the first address that answers; its timeout is what remains.

    Raises:
        OSError: the last address's failure; TimeoutError if the time is used up.
    """
    failure: OSError = TimeoutError("the connection could not be made in time")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # An equal share of what remains for each, so that one that swallows packets, as IPv6 does
        # where it is half set up, leaves time for the next.
        share = (ends_at - elapsed()) / (len(addresses) - index)
        if share <= 0:
            break
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:  # such as a machine without IPv6
            failure = error
            continue
        try:
            candidate.settimeout(share)
            candidate.connect(address)
            candidate.settimeout(max(ends_at - elapsed(), 0.001))
        except OSError as error:
            candidate.close()
            failure = error
        else:
            return candidate
    raise failure
