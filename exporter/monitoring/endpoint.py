"""The HTTP endpoint of the daemon: `/metrics`, `/livez` and `/readyz`.

Needs the extra `metrics`, and is imported only where the configuration has `[metrics]`.
"""

import functools
import logging
import socket
import socketserver
import threading
from contextlib import suppress
from http.server import ThreadingHTTPServer

from prometheus_client.exposition import MetricsHandler

from exporter.clock import elapsed
from exporter.hooks import DaemonReady, Event, Heartbeat
from exporter.monitoring.health import Health
from exporter.monitoring.metrics import Metrics

_log = logging.getLogger(__name__)

_REQUEST_SECONDS = 5.0  # how long a client may take to send its request
_RETRY_SECONDS = 60.0  # how long to wait while the port is taken


class Endpoint:
    """Serve `/metrics`, `/livez` and `/readyz`.

    While the port is taken there are no metrics, but polls go on: the error is logged once, and the
    endpoint tries again each minute.

    Args:
        metrics: served at `/metrics`.
        health: served at `/livez` and `/readyz`.
        host, port: to listen on.
    """

    def __init__(self, metrics: Metrics, health: Health, host: str, port: int) -> None:
        self.address = (host, port)
        self._metrics = metrics
        self._health = health
        self._server: _Server | None = None
        self._complained = False
        self._retry_at = 0.0

    @property
    def port(self) -> int | None:
        """The port that it listens on; None while it does not listen."""
        return None if self._server is None else self._server.server_address[1]

    def receive(self, event: Event) -> None:
        """Begin to serve once the daemon is ready; try again if the port was taken."""
        match event:
            case DaemonReady():
                self.start()
            case Heartbeat():
                if self._server is None and elapsed() >= self._retry_at:
                    self.start()

    def start(self) -> None:
        """Begin to serve, unless it serves already."""
        if self._server is not None:
            return
        try:
            self._server = _Server(self.address, self._metrics, self._health)
        except OSError as error:
            self._retry_at = elapsed() + _RETRY_SECONDS
            if not self._complained:
                self._complained = True
                _log.error(
                    "cannot listen on %s port %d: %s; polls go on without metrics, and the daemon"
                    " tries again each minute",
                    *self.address,
                    error.strerror or error,
                    extra={"event": "metrics_failed"},
                )
            return
        self._complained = False
        threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True, args=(0.1,)
        ).start()
        _log.info(
            "serving metrics",
            extra={"event": "metrics_ready", "host": self.address[0], "port": self.port},
        )

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], metrics: Metrics, health: Health) -> None:
        host, port = address
        self.address_family = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0][0]
        super().__init__(address, functools.partial(_Handler, metrics, health))

    def server_bind(self) -> None:
        """Bind without http.server's lookup of this host's name, which may take long."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing about a client that went away."""


class _Handler(MetricsHandler):
    server_version = "kalshi-exporter"
    sys_version = ""
    timeout = _REQUEST_SECONDS

    def __init__(self, metrics: Metrics, health: Health, *arguments: object) -> None:
        self.registry = metrics.registry
        self._health = health
        super().__init__(*arguments)  # type: ignore[arg-type]  # the server's, passed on

    def do_GET(self) -> None:  # noqa: N802  # http.server calls it
        """Respond to a request; the library responds to `/metrics`."""
        if self.path.partition("?")[0] == "/metrics":
            super().do_GET()
        else:
            self._respond(*self._response())

    def do_HEAD(self) -> None:  # noqa: N802  # http.server calls it
        """Respond without a body, as some monitors ask."""
        self._respond(*self._response())

    def _response(self) -> tuple[int, str]:
        match self.path.partition("?")[0]:
            case "/metrics":
                return 200, ""
            case "/livez":
                stalled = f"the scheduler has been stalled for {self._health.stalled_seconds:.0f} s"
                faults = [] if self._health.moving else [stalled]
            case "/readyz":
                faults = [f"{account}: {why}" for account, why in self._health.stale().items()]
            case _:
                return 404, "see /metrics, /livez and /readyz\n"
        return 503 if faults else 200, "".join(f"{fault}\n" for fault in faults) or "ok\n"

    def _respond(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)
