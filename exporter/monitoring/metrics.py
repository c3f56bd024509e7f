"""Metrics for Prometheus: the daemon serves them, and `run-once` writes them to a file.

Needs the extra `metrics`, and is imported only where the configuration has `[metrics]`.
"""

import functools
import logging
import math
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
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

from exporter import __version__
from exporter.errors import ExporterError, Outcome
from exporter.hooks import (
    AccountsChanged,
    Event,
    EventsRecorded,
    PollDrained,
    PollFinished,
    StreamChanged,
)
from exporter.monitoring.stream_metrics import StreamMetrics

_log = logging.getLogger(__name__)

_PREFIX = "kalshi_exporter"
_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 600.0)  # seconds
_CHANGES = ("added", "changed", "removed")


class Metrics:
    """Count polls, changes and events.

    Args:
        spooled: counts the polls that wait in the spool, by account.
        process: whether to include this process: its memory, processor time and files.
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
            "changes", "Order groups that appeared, changed and disappeared.", ["account", "change"]
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
            gauge("order_groups", "Order groups that stand, as in `status`.", ["account"]),
        )
        self._interval, self._last_success, self._last_attempt, self._groups = self._by_account
        self._skew = gauge(
            "clock_skew_seconds", "This machine's clock minus the exchange's, as last measured."
        )
        gauge("spool_polls", "Polls that wait for the database.").set_function(self._waiting)
        Info("build", "The version that runs.", namespace=_PREFIX, registry=self.registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        self._stream = StreamMetrics(_PREFIX, self.registry)
        self._known: dict[str, float] = {}

    def receive(self, event: Event) -> None:
        """Count an event."""
        match event:
            case PollFinished():
                self._count_poll(event)
            case PollDrained():
                if event.account in self._known:
                    self._count_changes(event.account, event.added, event.changed, event.removed)
            case StreamChanged():
                self._stream.count_change(event)
            case EventsRecorded():
                self._stream.count_events(event)
            case AccountsChanged():
                self._change_accounts(event.intervals)
                self._stream.change_accounts(event.listening)

    def _change_accounts(self, intervals: Mapping[str, float]) -> None:
        """Start the counters of new accounts, and drop the series of former ones."""
        for account in self._known.keys() - intervals.keys():
            for gauge in self._by_account:
                _forget(gauge, account)
            for outcome in get_args(Outcome):
                _forget(self._polls, account, outcome)
            for change in _CHANGES:
                _forget(self._changes, account, change)
        for account, interval in intervals.items():
            self._interval.labels(account).set(interval)
            # If a counter began with its first failure, `increase` would not show that one.
            for outcome in get_args(Outcome):
                self._polls.labels(account, outcome)
            for change in _CHANGES:
                self._changes.labels(account, change)
        self._known = dict(intervals)

    def _count_poll(self, event: PollFinished) -> None:
        account = event.account
        if account not in self._known:
            return  # this poll ended after the account had left the configuration
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

    def write(self, path: Path) -> None:
        """Write all metrics to a file for node_exporter, which is replaced as a whole.

        If the file cannot be written, this is logged and has no other effect. The library's own
        `write_to_textfile` leaves the file's mode to the umask, but node_exporter is another user.
        """
        # node_exporter reads only what ends with .prom.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            try:
                with temporary.open("wb") as file:
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
