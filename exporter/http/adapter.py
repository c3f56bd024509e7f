"""A requests adapter that gives each round trip one total deadline and one bound on bytes."""

import functools
import http.client
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Self, cast

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import PoolManager, ProxyManager
from urllib3.util import Retry, Timeout, parse_url

from exporter.clock import elapsed
from exporter.http.resolve import connect, look_up
from exporter.http.sockets import DeadlineSocket

# A response may have this much beside its body: header, interim responses, framing of chunks.
_OVERHEAD = 1024 * 1024  # bytes

_LEAST = 0.001  # seconds; urllib3 refuses a timeout of 0

# The same as `max_retries=0`, made once for all accounts.
_NO_RETRIES = Retry(0, read=False)

_HTTP_PORT = 80
_TUNNEL_LIMIT = 64 * 1024  # bytes of a proxy's response to CONNECT


class StaleConnectionError(Exception):
    """The peer had closed a kept connection before it could have read the request.

    The request may be sent again. This is no OSError, because urllib3 would wrap that.
    """


class TimeLeft(Timeout):
    """A timeout of urllib3 that always equals the time left until a deadline.

    urllib3's own total timeout says the same, but makes four copies of itself for each request.

    Args:
        remaining: returns the seconds that are left, negative after the deadline.
    """

    def __init__(self, remaining: Callable[[], float]) -> None:
        self._remaining = remaining

    def clone(self) -> Self:
        """Return this object: it has no state of a request."""
        return self

    def start_connect(self) -> float:
        """Do nothing; urllib3's own starts a clock here."""
        return 0.0

    @property
    def connect_timeout(self) -> float:
        """The seconds for connecting and for sending the request."""
        return max(self._remaining(), _LEAST)

    @property
    def read_timeout(self) -> float:
        """The seconds for the whole response."""
        return max(self._remaining(), _LEAST)


class _FinalResponse(http.client.HTTPResponse):
    """A response without the interim ones before it: http.client itself skips only 100.

    If another, such as 103, counted as the response, the final one would be taken for the response
    to the next request on the connection.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # private
            if not HTTPStatus.SWITCHING_PROTOCOLS < status[1] < HTTPStatus.OK:
                return status
            http.client.parse_headers(self.fp)


class _DeadlineHTTPConnection(HTTPConnection):
    response_class = _FinalResponse

    def __init__(self, *args: Any, byte_limit: int, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._byte_limit = byte_limit
        self._kept = False

    def connect(self) -> None:
        """Look up, connect, tunnel and shake hands, all inside `self.timeout` seconds."""
        self._ends_at = elapsed() + cast("float", self.timeout)
        super().connect()
        self.sock = cast(
            "socket.socket", DeadlineSocket(self.sock, self._ends_at, self._byte_limit)
        )

    def request(self, *args: Any, **keywords: Any) -> None:
        """Send a request.

        Raises:
            StaleConnectionError: the connection was kept, and the peer has closed it.
        """
        self._kept = self.sock is not None
        try:
            super().request(*args, **keywords)
        except TimeoutError:
            raise
        except OSError as error:
            if self._kept:
                raise StaleConnectionError from error
            raise

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself overrides it
        """Return the response's header, as urllib3's connection gives it.

        Raises:
            StaleConnectionError: the connection was kept, and it ended before a byte arrived.
        """
        connected: Any = self.sock
        try:
            return super().getresponse()
        except BaseException as error:
            # If a header contradicts itself, urllib3 leaves the response open.
            connected.abandon()
            lost = isinstance(error, OSError) and not isinstance(error, TimeoutError)
            if lost and self._kept and connected.silent:
                raise StaleConnectionError from error
            raise

    def _new_conn(self) -> socket.socket:
        try:
            connected = connect(
                look_up(self._dns_host.strip("[]"), self.port, self._ends_at), self._ends_at
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

    def _tunnel(self) -> None:
        # urllib3 reads the proxy's response from the plain socket, which has no total deadline.
        plain = self.sock
        self.sock = cast("socket.socket", DeadlineSocket(plain, self._ends_at, _TUNNEL_LIMIT))
        try:
            super()._tunnel()
        finally:
            self.sock = plain


class _DeadlineHTTPSConnection(_DeadlineHTTPConnection, HTTPSConnection):
    """The same over TLS; `super().connect()` is then HTTPSConnection's, which shakes hands."""


class _DeadlineHTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineHTTPConnection


class _DeadlineHTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlineHTTPSConnection


class _TunnelledHTTPConnectionPool(_DeadlineHTTPConnectionPool):
    """A pool whose connections reach a plain HTTP server through a proxy's tunnel.

    urllib3 itself tunnels HTTPS alone and would ask the proxy to forward the rest: one way is
    enough, and it is the same as the stream's.

    Args:
        host, port: of the server.
        proxy: its URL.
        headers: of the request to the proxy.
        keywords: of urllib3's pool.
    """

    def __init__(
        self, host: str, port: int, *, proxy: str, headers: dict[str, str], **keywords: Any
    ) -> None:
        super().__init__(host, port, **keywords)
        self._through = parse_url(proxy)
        self._tunnel_headers = headers

    def _new_conn(self) -> Any:
        # As urllib3's own, with another server to connect to.
        self.num_connections += 1
        connection = self.ConnectionCls(
            host=cast("str", self._through.host),
            port=self._through.port,
            timeout=self.timeout.connect_timeout,
            **self.conn_kw,
        )
        connection.set_tunnel(self.host, self.port, self._tunnel_headers)
        return connection


class DeadlineAdapter(HTTPAdapter):
    """An adapter for a `requests.Session` whose timeout is the total time of a round trip.

    Pass a `TimeLeft` as `timeout`. One connection is kept alive; nothing is
    retried, because each attempt needs a signature of its own. A request on a kept connection
    may raise `StaleConnectionError`.

    Args:
        body_limit: bytes of the largest body that is acceptable.
    """

    def __init__(self, body_limit: int) -> None:
        self._byte_limit = body_limit + _OVERHEAD
        self._pool: ConnectionPool | None = None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=_NO_RETRIES)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> ConnectionPool:
        """Return the pool of the one server; requests would search for it at each request."""
        if self._pool is None:
            url = parse_url(request.url or "")
            proxy = (proxies or {}).get("http")
            if url.scheme == "http" and proxy is not None:
                self._pool = _TunnelledHTTPConnectionPool(
                    cast("str", url.host),
                    url.port or _HTTP_PORT,
                    proxy=proxy,
                    headers=self.proxy_headers(proxy),
                    maxsize=1,
                    byte_limit=self._byte_limit,
                )
            else:
                self._pool = super().get_connection_with_tls_context(
                    request, verify, proxies=proxies, cert=cert
                )
        return self._pool

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:  # noqa: ARG002  # requests' signature
        """Return what follows the method: the path, because every proxy tunnels."""
        return request.path_url

    def close(self) -> None:
        """Close the connection; requests calls this."""
        self._pool = None
        super().close()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make urllib3 use the connections of this module; requests calls this."""
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        self._use_deadlines(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> ProxyManager:
        """Return the manager of a proxy's connections; requests calls this."""
        manager: ProxyManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        self._use_deadlines(manager)
        return manager

    def _use_deadlines(self, manager: PoolManager) -> None:
        # urllib3's types do not allow for partials.
        classes: Any = {
            "http": functools.partial(_DeadlineHTTPConnectionPool, byte_limit=self._byte_limit),
            "https": functools.partial(_DeadlineHTTPSConnectionPool, byte_limit=self._byte_limit),
        }
        manager.pool_classes_by_scheme = classes
