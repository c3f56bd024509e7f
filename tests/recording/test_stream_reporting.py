"""Test the reports of one connection: one line per change, with repeats counted."""

import logging
from typing import TYPE_CHECKING

import pytest

from exporter.clock import Clock
from exporter.errors import StreamError
from exporter.hooks import Event, Hooks, StreamChanged
from exporter.recording.stream_reporting import StreamReporter
from exporter.recording.stream_source import StreamAccount, StreamSource

if TYPE_CHECKING:
    from exporter.kalshi.keys import SigningKey


class Collector:
    """A listener that collects events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def receive(self, event: Event) -> None:
        """Collect an event."""
        self.events.append(event)


@pytest.fixture
def source() -> StreamSource:
    key: SigningKey = None  # type: ignore[assignment]  # nothing is signed
    accounts = (StreamAccount("main", False), StreamAccount("other", False))
    return StreamSource(url="wss://h/p", key_id="k", key=key, proxy=None, accounts=accounts)


def lost(reporter: StreamReporter, source: StreamSource, *, reason: str, connected: bool) -> None:
    error = StreamError(reason, cause="disconnected")
    reporter.lost(source, error, was_connected=connected, wait=1.0)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records]


def test_a_flapping_connection_is_logged_once_until_it_holds(
    source: StreamSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="exporter")
    reporter = StreamReporter(Hooks(), Clock())
    reporter.connected(source)
    for port in range(4):
        lost(reporter, source, reason=f"lost at port {port}", connected=True)
        reporter.connected(source)
    reporter.held()
    assert events(caplog) == [
        "stream_connected",
        "stream_disconnected",
        "stream_connected",
        "stream_connected",
    ]
    facts = vars(caplog.records[-1])
    assert (facts["failed_attempts"], facts["suppressed"]) == (4, 6)
    assert facts["account"] == "main, other"
    lost(reporter, source, reason="lost at port 5", connected=True)
    assert events(caplog)[-1] == "stream_disconnected"


def test_each_new_failure_is_logged(source: StreamSource, caplog: pytest.LogCaptureFixture) -> None:
    reporter = StreamReporter(Hooks(), Clock())
    for reason in ("no route", "no route", "no route", "name lookup failed", "no route"):
        lost(reporter, source, reason=reason, connected=False)
    assert events(caplog) == ["stream_failed"] * 3


def test_each_account_is_reported_to_listeners(source: StreamSource) -> None:
    collector = Collector()
    reporter = StreamReporter(Hooks(collector), Clock())
    reporter.connected(source)
    lost(reporter, source, reason="gone", connected=True)
    changes = [each for each in collector.events if isinstance(each, StreamChanged)]
    assert [(each.account, each.connected, each.was_connected, each.cause) for each in changes] == [
        ("main", True, False, None),
        ("other", True, False, None),
        ("main", False, True, "disconnected"),
        ("other", False, True, "disconnected"),
    ]
