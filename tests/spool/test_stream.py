"""Test the event batches in the spool: order, bounds, and reported losses."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.causes import StreamGapCause
from exporter.errors import SpoolError
from exporter.model import OrderGroupEvent, StreamBatch
from exporter.spool.spool import Spool
from exporter.spool.stream import StreamSpool

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def event(seconds: float, **fields: Any) -> OrderGroupEvent:
    values = {"event_type": "limit_updated", "extra": '{"x":"\\u0000"}'} | fields
    return OrderGroupEvent(
        order_group_id="🦀", received_at=at(seconds), event_at=at(seconds), **values
    )


def batch(
    since: float | None,
    until: float,
    *events: OrderGroupEvent,
    account: str = "main",
    cause: StreamGapCause | None = None,
) -> StreamBatch:
    return StreamBatch(
        account=account,
        own_groups_only=False,
        since=None if since is None else at(since),
        until=at(until),
        events=events,
        cause=cause,
    )


def spool(directory: Path, max_size: int = 2**20) -> StreamSpool:
    return StreamSpool(Spool(directory, max_size, database="here"))


def batches(stream: StreamSpool, account: str = "main") -> list[StreamBatch]:
    return [each for _, each in stream.batches(account)]


def test_another_process_reads_batches_in_order(tmp_path: Path) -> None:
    kept = [
        batch(0, 1, event(1, contracts_limit="10.00")),
        batch(0, 2, event(2), replace_occurrence(event(2))),
        batch(0, 2, cause="disconnected"),
        batch(None, 3, cause="unreachable"),
        batch(5, 6),
    ]
    stream = spool(tmp_path)
    for each in kept:
        stream.put(each)
    stream.put(batch(0, 9, account="other"))
    # The third batch only ends the second, so it is merged into it.
    expected = [kept[0], replace(kept[1], cause="disconnected"), *kept[3:]]
    assert batches(spool(tmp_path)) == expected
    assert spool(tmp_path).accounts() == {"main", "other"}


def replace_occurrence(each: OrderGroupEvent) -> OrderGroupEvent:
    from msgspec.structs import replace as changed

    return changed(each, occurrence=2)


def test_a_batch_without_events_extends_the_previous_one(tmp_path: Path) -> None:
    stream = spool(tmp_path)
    stream.put(batch(0, 1, event(1)))
    for until in range(2, 50):
        stream.put(batch(0, until))
    assert batches(stream) == [batch(0, 49, event(1))]
    stream.put(batch(60, 61))
    assert len(batches(stream)) == 2


def test_a_batch_that_was_extended_meanwhile_is_not_removed(tmp_path: Path) -> None:
    stream = spool(tmp_path)
    stream.put(batch(0, 1, event(1)))
    [(number, written)] = stream.batches("main")
    stream.put(batch(0, 2))
    assert not stream.remove("main", number, written)
    [(number, written)] = stream.batches("main")
    assert written.until == at(2)
    assert stream.remove("main", number, written)
    assert batches(stream) == []


def fill(stream: StreamSpool) -> int:
    """Put one batch per second until the spool is full, and return the last second it kept."""
    for second in range(1, 10_000):
        noise = "".join(chr(33 + (second * each) % 89) for each in range(1, 4000))
        try:
            stream.put(batch(0, second, event(second, event_type=noise)))
        except SpoolError:
            return second - 1
    raise AssertionError("the spool never fills up")


def test_a_full_spool_reports_a_loss_at_its_place(tmp_path: Path) -> None:
    stream = spool(tmp_path, max_size=120_000)
    kept = fill(stream)
    assert kept > 5
    with pytest.raises(SpoolError, match=r"spool\.max_size"):
        stream.put(batch(0, kept + 2, event(kept + 1.5, event_type="x" * 100_000)))
    # Another process reads them, with the loss in its place.
    again = spool(tmp_path, max_size=120_000)
    found = list(again.batches("main"))
    assert [each.until for _, each in found] == [at(second) for second in range(1, kept + 1)] + [
        at(kept + 2)
    ]
    assert found[-1][1] == batch(None, kept + 2, cause="not_kept")
    # With room again, the next batch does not claim the lost span as covered.
    for number, each in found[:-1]:
        assert again.remove("main", number, each)
    again.put(batch(0, kept + 3))
    [report, after, loss] = again.batches("main")
    assert report[1] == loss[1] == found[-1][1]
    assert again.remove("main", *report) is False
    assert after[1].since == at(kept + 2) + timedelta(microseconds=1)
    assert again.remove("main", *loss)
    assert [number for number, _ in again.batches("main")] == [after[0]]


def test_a_failing_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the directory should be")
    stream = spool(tmp_path / "spool")
    with pytest.raises(SpoolError):
        stream.put(batch(0, 1, event(1)))


def test_the_file_of_an_older_version_takes_batches(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "spool.db")) as connection:
        connection.executescript(
            "CREATE TABLE answers (database TEXT NOT NULL, account TEXT NOT NULL,"
            " digest TEXT NOT NULL, groups BLOB NOT NULL, PRIMARY KEY (database, account, digest));"
            "CREATE TABLE polls (id INTEGER PRIMARY KEY AUTOINCREMENT, database TEXT NOT NULL,"
            " account TEXT NOT NULL, digest TEXT, poll TEXT NOT NULL);"
        )
    stream = spool(tmp_path)
    assert batches(stream) == []
    stream.put(batch(0, 1))
    assert batches(stream) == [batch(0, 1)]


def test_a_span_that_ended_is_not_extended(tmp_path: Path) -> None:
    stream = spool(tmp_path)
    kept = [batch(0, 1), batch(0, 2, cause="disconnected"), batch(0, 3)]
    for each in kept:
        stream.put(each)
    assert batches(stream) == kept[1:]
