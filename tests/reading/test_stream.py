"""Test the events, triggers and stream gaps in `export` and `status`."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroup, OrderGroupEvent, StreamBatch
from exporter.reading.export import What, export
from exporter.reading.status import status
from exporter.reading.status_text import render_table, to_json

Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def rows(recorder: Any, tmp_path: Path) -> Rows:
    """Return a function that exports the rows of a short history."""
    write_history(recorder)

    def read(what: What, **how: Any) -> list[dict[str, Any]]:
        path = tmp_path / "rows.jsonl"
        export(recorder.url, what, file_format="jsonl", output=path, **how)
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    return read


def write_history(recorder: Any) -> None:
    """Record two stretches with a trigger, its reset, and a trigger that only the flag shows."""
    store = StreamStore(recorder.database)

    def hear(since: float, until: float, *events: OrderGroupEvent, cause: Any = None) -> None:
        store.write(
            StreamBatch(
                account="main",
                own_groups_only=False,
                since=recorder.at(since),
                until=recorder.at(until),
                events=events,
                cause=cause,
            )
        )

    def event(seconds: float, kind: str, **fields: Any) -> OrderGroupEvent:
        at = recorder.at(seconds)
        values = {"event_at": at, "received_at": at + timedelta(seconds=0.5)} | fields
        return OrderGroupEvent(order_group_id="a", event_type=kind, **values)

    recorder.ok(0, [OrderGroup("a", False, "5.00"), OrderGroup("b", False)])
    hear(1, 30, event(10, "triggered"), event(20, "limit_updated", contracts_limit="7.00"))
    recorder.ok(60, [OrderGroup("a", True, "7.00"), OrderGroup("b", False)])
    hear(1, 90, event(80, "reset", event_at=None), cause="disconnected")
    recorder.ok(120, [OrderGroup("a", False, "7.00"), OrderGroup("b", True)])
    hear(150, 180)


def test_events_are_selected_by_span(recorder: Any, rows: Rows) -> None:
    events = rows("events")
    assert [(each["event_type"], each["contracts_limit"]) for each in events] == [
        ("triggered", None),
        ("limit_updated", "7.00"),
        ("reset", None),
    ]
    assert [each["event_at"] is None for each in events] == [False, False, True]
    assert "identity" not in events[0]

    def types(since: float | None, until: float | None) -> list[str]:
        span = {
            name: None if seconds is None else recorder.at(seconds)
            for name, seconds in (("since", since), ("until", until))
        }
        return [each["event_type"] for each in rows("events", **span)]

    assert types(10, 20) == ["triggered"]
    assert types(20, None) == ["limit_updated", "reset"]
    assert types(None, 20) == ["triggered"]
    assert types(80, 81) == ["reset"]
    assert rows("events", group_ids=["b"]) == []
    assert rows("events", account_names=["other"]) == []


def test_triggers_come_from_events_or_flags(recorder: Any, rows: Rows) -> None:
    heard, seen = rows("triggers")
    assert heard == {
        "account": "main",
        "order_group_id": "a",
        "triggered_at": "2026-03-01T12:00:10.123456Z",
        "not_before": None,
        "ended_at": "2026-03-01T12:01:20.623456Z",
        "ended_by": "reset",
        "contracts_limit": "5.00",
        "evidence": "event",
    }
    assert seen == {
        "account": "main",
        "order_group_id": "b",
        "triggered_at": "2026-03-01T12:02:00.123456Z",
        "not_before": "2026-03-01T12:01:00.123456Z",
        "ended_at": None,
        "ended_by": None,
        "contracts_limit": None,
        "evidence": "flag",
    }
    assert rows("triggers", since=recorder.at(11)) == [seen]
    assert rows("triggers", until=recorder.at(120)) == [heard]
    assert rows("triggers", group_ids=["b"]) == [seen]


def test_stream_gaps_are_selected_by_overlap_with_the_span(recorder: Any, rows: Rows) -> None:
    [gap] = rows("stream-gaps")
    assert (gap["seconds"], gap["cause"]) == (60.0, "disconnected")
    assert rows("stream-gaps", since=recorder.at(149)) == [gap]
    assert rows("stream-gaps", since=recorder.at(150)) == []
    assert rows("stream-gaps", until=recorder.at(90)) == []
    with pytest.raises(ValueError, match="an account's"):
        rows("stream-gaps", group_ids=["a"])


@pytest.mark.parametrize("what", ["events", "triggers", "stream-gaps"])
def test_stream_rows_can_be_datasets(sqlite_recorder: Any, tmp_path: Path, what: What) -> None:
    write_history(sqlite_recorder)
    place = tmp_path / "dataset"
    for _ in range(2):
        done = export(sqlite_recorder.url, what, file_format="parquet", output=place, dataset=True)
        assert done.rows > 0
    [path] = place.rglob("*.parquet")
    assert path.relative_to(place) == Path(f"account=main/date=2026-03-01/{what}.parquet")


def test_changes_say_when_the_event_happened(rows: Rows) -> None:
    changes = [
        (each["change"], each["order_group_id"], each["event_at"]) for each in rows("changes")
    ]
    assert changes == [
        ("appeared", "a", None),
        ("appeared", "b", None),
        ("changed", "a", "2026-03-01T12:00:20.123456Z"),
        ("changed", "a", None),  # its event carries no time
        ("changed", "b", None),
    ]


@pytest.mark.parametrize("what", ["events", "triggers", "stream-gaps"])
def test_an_export_notes_that_no_daemon_listens(recorder: Any, tmp_path: Path, what: What) -> None:
    write_history(recorder)

    def notices(seconds: float, until: float | None = None) -> list[str]:
        end = None if until is None else recorder.at(until)
        done = export(
            recorder.url,
            what,
            until=end,
            now=recorder.at(seconds),
            account_names=["main"],
            output=tmp_path / "rows.csv",
        )
        return list(done.notices)

    assert notices(185) == []
    # A gap that has not ended has no row, so a notice reports it.
    (line,) = notices(300)
    assert line == (
        "main: not listening since 2026-03-01T12:03:00.123456Z, because no exporter was listening"
        " (not_listening)"
    )
    assert notices(300, until=100) == []


def test_status_says_whether_a_daemon_listens(recorder: Any) -> None:
    write_history(recorder)

    def stream(seconds: float, account: str = "main") -> tuple[Any, str]:
        found = status(recorder.url, [(account, 60.0)], now=recorder.at(seconds))
        return json.loads(to_json(found))["accounts"][0]["stream"], render_table(found)

    now, text = stream(185)
    assert now == {
        "connected_since": "2026-03-01T12:02:30.123456Z",
        "last_event_at": "2026-03-01T12:01:20.623456Z",
        "gap": None,
        "triggers_24h": 2,
        "enabled": True,
    }
    # A stretch whose end lies in the future was dated by a clock that is set back by now.
    ahead, _ = stream(100)
    assert ahead["connected_since"] is None
    assert ahead["gap"]["cause"] == "not_listening"
    assert ahead["gap"]["since"] < "2026-03-01T12:01:40"
    assert "listening since 2026-03-01T12:02:30.123456Z, last event 2026-03-01T12:01:20" in text
    later, text = stream(300)
    assert later["gap"] == {"since": "2026-03-01T12:03:00.123456Z", "cause": "not_listening"}
    assert later["connected_since"] is None
    assert "not listening since 2026-03-01T12:03:00.123456Z" in text

    store = StreamStore(recorder.database)
    for account in ("main", "new"):
        store.write(
            StreamBatch(
                account=account,
                own_groups_only=False,
                since=None,
                until=recorder.at(184),
                cause="unauthorized",
            )
        )
    assert stream(185)[0]["gap"]["cause"] == "unauthorized"
    never, text = stream(185, "new")
    assert never["gap"] == {"since": None, "cause": "unauthorized"}
    assert "never listened, because the exchange refused the key" in text
    assert "listen" not in stream(185, "unknown")[1]
