"""Test the thread that writes events: hangs, a long spool, and damaged batches."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from exporter.clock import Clock
from exporter.errors import DatabaseError
from exporter.history.stream_store import StreamStore, StreamWritten
from exporter.hooks import Hooks
from exporter.model import OrderGroupEvent, StreamBatch
from exporter.recording.stream_backlog import StreamTarget
from exporter.recording.stream_queue import StreamQueue, Subscription
from exporter.recording.stream_source import StreamAccount
from exporter.recording.stream_writer import StreamWriter
from exporter.spool.spool import Spool
from exporter.spool.stream import StreamSpool

MAIN = StreamAccount("main", own_groups_only=False)
NOW = datetime(2026, 11, 26, tzinfo=UTC)


class FakeStore:
    """A database that can be away, hang, or be slow."""

    def __init__(self) -> None:
        self.written: list[StreamBatch] = []
        self.is_away = False
        self.seconds = 0.0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def begin(self, _account: str, since: datetime, *, now: datetime) -> datetime:
        return min(since, now)

    def write(self, batch: StreamBatch) -> StreamWritten:
        self.may_go_on.wait(30)
        time.sleep(self.seconds)
        if self.is_away:
            raise DatabaseError("away")
        self.written.append(batch)
        return StreamWritten(added=len(batch.events))

    @property
    def heard(self) -> list[str]:
        return [event.order_group_id for batch in self.written for event in batch.events]


class Listening:
    """A writer with one subscription."""

    def __init__(self, directory: Path) -> None:
        self.store = FakeStore()
        self.queue = StreamQueue()
        self.spool = StreamSpool(Spool(directory, 2**26, database="here"))
        self.writer = StreamWriter(
            self.queue,
            StreamTarget(store=cast("StreamStore", self.store), spool=self.spool, database="here"),
            hooks=Hooks(),
            clock=Clock(),
            poll_soon=lambda _account: None,
        )
        self.subscription: Subscription = self.queue.open([MAIN], NOW)
        self.seconds = 0.0

    def has_spooled(self, count: int) -> bool:
        """Return whether at least `count` batches wait in the spool."""
        return sum(1 for _ in self.spool.batches("main")) >= count

    def hear(self, *names: str) -> None:
        """Queue one event per group, each a second after the previous one."""
        for name in names:
            self.seconds += 1
            at = NOW + timedelta(seconds=self.seconds)
            event = OrderGroupEvent(
                order_group_id=name, event_type="created", event_at=at, received_at=at
            )
            self.queue.add(self.subscription, event, at)


@contextmanager
def _running(directory: Path) -> Iterator[Listening]:
    listening = Listening(directory)
    listening.writer.start()
    try:
        yield listening
    finally:
        listening.store.may_go_on.set()
        listening.queue.close()
        assert listening.writer.join(30)


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "the condition did not hold in time"
        time.sleep(0.005)


def test_a_hanging_writer_is_busy_and_a_waiting_one_is_not(tmp_path: Path) -> None:
    with _running(tmp_path) as listening:
        listening.hear("a")
        wait_until(lambda: listening.store.heard == ["a"])
        wait_until(lambda: listening.writer.busy_seconds == 0.0)
        listening.store.may_go_on.clear()
        listening.hear("b")
        wait_until(lambda: listening.writer.busy_seconds > 0.1)
        listening.store.may_go_on.set()
        wait_until(lambda: listening.writer.busy_seconds == 0.0)


def test_a_long_drain_does_not_block_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.recording.stream_writer._DRAIN_SECONDS", 0.02)
    with _running(tmp_path) as listening:
        listening.store.is_away = True
        expected = [f"away-{number}" for number in range(20)]
        for number, name in enumerate(expected, start=1):
            listening.hear(name)
            wait_until(partial(listening.has_spooled, number))
        listening.store.seconds = 0.05
        listening.store.is_away = False
        wait_until(lambda: listening.store.written)
        # An event that arrives during the drain leaves the queue before the spool is empty.
        expected.append("meanwhile")
        listening.hear("meanwhile")
        wait_until(lambda: not listening.subscription.events)
        assert len(listening.store.heard) < len(expected) - 1
        wait_until(lambda: len(listening.store.heard) >= len(expected))
        assert listening.store.heard == expected


def test_a_damaged_batch_is_not_claimed_as_covered(tmp_path: Path) -> None:
    with _running(tmp_path) as listening:
        listening.hear("before")
        wait_until(lambda: listening.store.heard == ["before"])
        listening.store.is_away = True
        for number, name in enumerate(("first", "damaged", "last"), start=1):
            listening.hear(name)
            wait_until(partial(listening.has_spooled, number))
        with closing(sqlite3.connect(tmp_path / "spool.db")) as connection, connection:
            connection.execute(
                "UPDATE batches SET packed = x'00' WHERE id = (SELECT MIN(id) + 1 FROM batches)"
            )
        listening.store.is_away = False
        wait_until(lambda: listening.store.heard == ["before", "first", "last"])
        listening.hear("after")
        wait_until(lambda: "after" in listening.store.heard)
        first, damaged, last, after = listening.store.written[-4:]
        assert first.since == NOW
        assert (damaged.since, damaged.events, damaged.cause) == (None, (), "not_kept")
        assert last.since is None
        # The new stretch starts at the writer's clock, which is later than every event.
        assert after.since is not None
        assert after.since > last.events[0].received_at
        assert listening.spool.accounts() == {"main"}  # the damaged batch stays in the spool
