"""Metrics for Prometheus, and two addresses that say whether the daemon is well.

Needs the extra `metrics`, and is imported only where the configuration has `[metrics]`.
"""

import functools
import logging
import math
import os
import platform
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder

from exporter import __version__
from exporter.clock import elapsed
from exporter.errors import ExporterError, Outcome
from exporter.hooks import Listener, PollFinished
from exporter.monitoring.health import Health

_log = logging.getLogger("exporter.metrics")

_PREFIX = "kalshi_exporter"
_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 600.0)  # seconds
_CHANGES = ("added", "changed", "removed")
_REQUEST_SECONDS = 5.0  # that a client may take to ask
_TRY_AGAIN = 60.0  # seconds, while the port is taken


class Metrics(Listener):
    """Counts what happens.

    Args:
        spooled: how many polls wait in the spool, by account.
        process: whether to tell of this process too: its memory, processor time and files.
    """

    def __init__(self, spooled: Callable[[], Mapping[str, int]], *, process: bool) -> None:
        self.spooled = spooled
        self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=self.registry)
        counter = functools.partial(Counter, namespace=_PREFIX, registry=self.registry)
        gauge = functools.partial(Gauge, namespace=_PREFIX, registry=self.registry)
        self._polls = counter("polls", "Polls, by how they ended.", ["account", "outcome"])
        self._attempts = counter("poll_attempts", "HTTP requests that polls sent.")
        self._changes = counter(
            "changes", "States of order groups opened and closed.", ["account", "change"]
        )
        self._durations = Histogram(
            "poll_duration_seconds",
            "From the claim to the commit of a poll.",
            namespace=_PREFIX,
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._by_account = (
            gauge("poll_interval_seconds", "How often the account is polled.", ["account"]),
            gauge(
                "last_success_timestamp_seconds",
                "The latest observation that is in the database.",
                ["account"],
            ),
            gauge("last_attempt_timestamp_seconds", "When the latest poll began.", ["account"]),
            gauge("order_groups", "Order groups that the latest observation saw.", ["account"]),
        )
        self._interval, self._last_success, self._last_attempt, self._groups = self._by_account
        self._skew = gauge(
            "clock_skew_seconds", "This machine's clock minus the exchange's, as last measured."
        )
        gauge("spool_polls", "Polls that wait for the database.").set_function(self._waiting)
        Info("build", "The version that runs.", namespace=_PREFIX, registry=self.registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        self._known: dict[str, float] = {}

    def accounts_changed(self, intervals: Mapping[str, float]) -> None:
        """Begin with the counters of new accounts, and drop what was told of former ones."""
        for account in self._known.keys() - intervals.keys():
            for gauge in self._by_account:
                _forget(gauge, account)
            for outcome in get_args(Outcome):
                _forget(self._polls, account, outcome)
            for change in _CHANGES:
                _forget(self._changes, account, change)
        for account, interval in intervals.items():
            self._interval.labels(account).set(interval)
            # A counter that begins with its first failure would hide that one from `increase`.
            for outcome in get_args(Outcome):
                self._polls.labels(account, outcome)
            for change in _CHANGES:
                self._changes.labels(account, change)
        self._known = dict(intervals)

    def polled(self, event: PollFinished) -> None:
        """Count a poll."""
        account = event.account
        if account not in self._known:
            return  # its last poll ended after it was taken out of the configuration
        self._polls.labels(account, event.outcome).inc()
        self._attempts.inc(event.attempts)
        self._durations.observe(event.seconds)
        self._last_attempt.labels(account).set(event.started_at.timestamp())
        if event.last_success_at is not None:
            self._last_success.labels(account).set(event.last_success_at.timestamp())
        if event.clock_skew_ms is not None:
            self._skew.set(event.clock_skew_ms / 1000)
        if event.groups is not None:
            self._groups.labels(account).set(event.groups)
            self._count_changes(account, event.added, event.changed, event.removed)

    def drained(self, account: str, *, added: int, changed: int, removed: int) -> None:
        """Count the changes of a poll that had to wait."""
        if account in self._known:
            self._count_changes(account, added, changed, removed)

    def write(self, path: Path) -> None:
        """Leave everything in a file for node_exporter, replaced as a whole.

        A file that cannot be written is logged, and no more.
        """
        # node_exporter reads only what ends with .prom.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            try:
                with temporary.open("wb") as file:
                    # node_exporter is another user, whatever this one's umask says.
                    os.fchmod(file.fileno(), 0o644)
                    file.write(generate_latest(self.registry))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _log.error(
                "cannot write metrics.textfile %s: %s",
                path,
                error.strerror,
                extra={"event": "metrics_failed"},
            )

    def _count_changes(self, account: str, *counts: int | None) -> None:
        for change, count in zip(_CHANGES, counts, strict=True):
            self._changes.labels(account, change).inc(count or 0)

    def _waiting(self) -> float:
        try:
            return sum(self.spooled().values())
        except ExporterError:
            return math.nan


def _forget(metric: Counter | Gauge, *labels: str) -> None:
    with suppress(KeyError):  # a gauge that was never set
        metric.remove(*labels)


class Endpoint(Listener):
    """Answers `/metrics`, `/livez` and `/readyz`.

    A port that is taken costs the metrics, not the polls: it is logged once and tried again.

    Args:
        metrics: what `/metrics` tells.
        health: what the other two tell.
    """

    def __init__(self, metrics: Metrics, health: Health, host: str, port: int) -> None:
        self.address = (host, port)
        self._metrics = metrics
        self._health = health
        self._server: _Server | None = None
        self._complained = False
        self._try_at = 0.0

    @property
    def port(self) -> int | None:
        """The port that is answered on; None while there is none."""
        return None if self._server is None else self._server.server_address[1]

    def ready(self) -> None:
        """Begin to answer."""
        if self._server is not None:
            return
        try:
            self._server = _Server(self.address, self._metrics, self._health)
        except OSError as error:
            self._try_at = elapsed() + _TRY_AGAIN
            if not self._complained:
                self._complained = True
                _log.error(
                    "cannot listen on %s port %d: %s; polls go on without metrics, and it is tried"
                    " again each minute",
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
            "answering Prometheus",
            extra={"event": "metrics_ready", "host": self.address[0], "port": self.port},
        )

    def heartbeat(self) -> None:
        """Try again if the port was taken."""
        if self._server is None and elapsed() >= self._try_at:
            self.ready()

    def close(self) -> None:
        """Answer no more."""
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
        """Bind without asking the name service who we are, which may take long."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    server_version = "kalshi-exporter"
    sys_version = ""
    timeout = _REQUEST_SECONDS

    def __init__(self, metrics: Metrics, health: Health, *arguments: object) -> None:
        self._metrics = metrics
        self._health = health
        super().__init__(*arguments)  # type: ignore[arg-type]  # the server's, passed on

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self._metrics.registry))
        elif path == "/livez":
            still = self._health.seconds_still
            self._say([] if self._health.moving else [f"the scheduler stands since {still:.0f} s"])
        elif path == "/readyz":
            self._say([f"{name}: {why}" for name, why in self._health.stale().items()])
        else:
            self._answer(404, "text/plain", b"see /metrics, /livez and /readyz\n")

    do_HEAD = do_GET  # noqa: N815  # http.server calls it

    def _say(self, wrong: list[str]) -> None:
        text = "".join(f"{line}\n" for line in wrong) or "ok\n"
        self._answer(503 if wrong else 200, "text/plain; charset=utf-8", text.encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # http.server's
        """Log no request: a scrape every few seconds is no news."""
