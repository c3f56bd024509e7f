"""Metrics of the stream: which accounts it listens for, what it heard, and how late."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from exporter.causes import StreamGapCause
from exporter.hooks import EventsRecorded, StreamChanged

_EVENT_TYPES: Final = ("created", "triggered", "reset", "deleted", "limit_updated")
_OTHER: Final = "other"  # the label of all other types, so that the exchange cannot add labels
_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 60.0, 600.0)  # seconds


class StreamMetrics:
    """Count connections and events of the stream.

    Args:
        namespace: what all names begin with.
        registry: to register with.
    """

    def __init__(self, namespace: str, registry: CollectorRegistry) -> None:
        self._connected = Gauge(
            "stream_connected",
            "1 while the daemon listens to the events of the account, else 0.",
            ["account"],
            namespace=namespace,
            registry=registry,
        )
        self._events = Counter(
            "events",
            "Events that were heard and kept.",
            ["account", "event_type"],
            namespace=namespace,
            registry=registry,
        )
        self._disconnects = Counter(
            "stream_disconnects",
            "Times that listening ended, by cause: each is a gap unless another daemon listens.",
            ["account", "cause"],
            namespace=namespace,
            registry=registry,
        )
        self._failures = Counter(
            "stream_connection_failures",
            "Attempts to connect and subscribe that failed, by cause.",
            ["account", "cause"],
            namespace=namespace,
            registry=registry,
        )
        self._delays = Histogram(
            "event_delay_seconds",
            "From the exchange's own time of an event until it was kept.",
            namespace=namespace,
            registry=registry,
            buckets=_BUCKETS,
        )
        self._listening: frozenset[str] = frozenset()

    def change_accounts(self, listening: Iterable[str]) -> None:
        """Start the series of new accounts, and drop those of former ones."""
        before, self._listening = self._listening, frozenset(listening)
        for account in before - self._listening:
            self._forget(account)
        for account in self._listening - before:
            self._connected.labels(account).set(0)
            # If a counter began with its first count, `increase` would not show that one.
            for event_type in (*_EVENT_TYPES, _OTHER):
                self._events.labels(account, event_type)
            for cause in get_args(StreamGapCause):
                self._disconnects.labels(account, cause)
                self._failures.labels(account, cause)

    def count_change(self, event: StreamChanged) -> None:
        """Count a connection that was opened, was lost or could not be made."""
        if event.account not in self._listening:
            return
        self._connected.labels(event.account).set(event.connected)
        if not event.connected and event.cause != "not_listening":  # as was asked for
            counter = self._disconnects if event.was_connected else self._failures
            counter.labels(event.account, event.cause).inc()

    def count_events(self, event: EventsRecorded) -> None:
        """Count events that are kept."""
        if event.account not in self._listening:
            return
        for each in event.events:
            event_type = each.event_type if each.event_type in _EVENT_TYPES else _OTHER
            self._events.labels(event.account, event_type).inc()
            if each.event_at is not None:
                self._delays.observe((event.recorded_at - each.event_at).total_seconds())

    def _forget(self, account: str) -> None:
        with suppress(KeyError):
            self._connected.remove(account)
        for event_type in (*_EVENT_TYPES, _OTHER):
            with suppress(KeyError):
                self._events.remove(account, event_type)
        for counter in (self._disconnects, self._failures):
            for cause in get_args(StreamGapCause):
                with suppress(KeyError):
                    counter.remove(account, cause)
