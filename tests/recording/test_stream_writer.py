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
from exporter.errors import DatabaseError, PoisonPollError, SpoolError
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
        self.begun: list[datetime] = []
        self.is_away = False
        self.refuses = ""  # the group whose events the database can never hold
        self.seconds = 0.0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def begin(self, _account: str, since: datetime, *, now: datetime) -> datetime:
        if self.is_away:
            raise DatabaseError("away")
        self.begun.append(since)
        return min(since, now)

    def write(
        self, batch: StreamBatch, *, still_waits: Callable[[], bool] | None = None
    ) -> StreamWritten:
        if still_waits is not None and not still_waits():
            return StreamWritten(added=0)
        self.may_go_on.wait(30)
        time.sleep(self.seconds)
        if self.is_away:
            raise DatabaseError("away")
        if self.refuses and self.refuses in {event.order_group_id for event in batch.events}:
            raise PoisonPollError("refused")
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
def _running(directory: Path, *, is_away: bool = False) -> Iterator[Listening]:
    listening = Listening(directory)
    listening.store.is_away = is_away
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


def test_a_batch_that_the_database_refuses_is_reported_and_ends_the_span(tmp_path: Path) -> None:
    with _running(tmp_path) as listening:
        listening.store.refuses = "poison"
        for name in ("before", "poison", "after"):
            listening.hear(name)
            wait_until(lambda: not listening.subscription.events)
            wait_until(lambda: listening.writer.busy_seconds == 0.0)
        wait_until(lambda: listening.store.heard == ["before", "after"])
        loss, after = listening.store.written[-2:]
        assert (loss.since, loss.cause) == (None, "not_kept")
        assert after.since is not None
        assert after.since > NOW + timedelta(seconds=2)  # when the lost event was received


def test_a_batch_that_finds_no_room_ends_the_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_batch: StreamBatch) -> None:
        raise SpoolError("full")

    with _running(tmp_path) as listening:
        listening.hear("before")
        wait_until(lambda: listening.store.heard == ["before"])
        listening.store.is_away = True
        monkeypatch.setattr(listening.spool, "put", refuse)
        listening.hear("lost")
        wait_until(lambda: listening.subscription.members[0].since is None)
        monkeypatch.undo()
        listening.store.is_away = False
        listening.hear("after")
        wait_until(lambda: listening.store.heard == ["before", "after"])
        after = listening.store.written[-1]
        assert after.since is not None
        assert after.since > NOW + timedelta(seconds=2)


def test_a_span_that_began_in_the_spool_is_made_known_to_the_database(tmp_path: Path) -> None:
    with _running(tmp_path, is_away=True) as listening:
        listening.hear("spooled")
        wait_until(partial(listening.has_spooled, 1))
        assert listening.store.begun == []
        listening.store.is_away = False
        wait_until(lambda: listening.store.heard == ["spooled"])
        listening.hear("later", "last")
        wait_until(lambda: listening.store.heard == ["spooled", "later", "last"])
        # What a clock that was ahead has claimed is taken back then, and the span stays as it is.
        assert listening.store.begun == [NOW]
        assert {batch.since for batch in listening.store.written} == {NOW}


def test_another_database_knows_nothing_of_a_span(tmp_path: Path) -> None:
    with _running(tmp_path) as listening:
        listening.hear("here")
        wait_until(lambda: listening.store.heard == ["here"])
        there = FakeStore()
        spool = StreamSpool(Spool(tmp_path, 2**26, database="there"))
        target = StreamTarget(store=cast("StreamStore", there), spool=spool, database="there")
        listening.writer.use(target)
        listening.hear("there")
        wait_until(lambda: there.heard == ["there"])
        (batch,) = there.written
        assert batch.since is not None
        assert batch.since > NOW
        assert len(there.begun) == 1


def test_a_batch_stays_in_the_spool_until_it_is_written(tmp_path: Path) -> None:
    listening = Listening(tmp_path)
    listening.spool.put(
        StreamBatch(account="main", own_groups_only=False, since=NOW, until=NOW, cause="overflow")
    )
    listening.store.is_away = True
    target = StreamTarget(
        store=cast("StreamStore", listening.store), spool=listening.spool, database="here"
    )
    with pytest.raises(DatabaseError):
        target.drain("main", 0.0)
    assert listening.has_spooled(1)
    listening.store.is_away = False
    assert target.drain("main", 0.0)
    assert listening.spool.accounts() == set()
