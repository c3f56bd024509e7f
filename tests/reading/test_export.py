"""Test the rows, formats and files of exports, identical on both databases."""

import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from exporter.errors import ConfigurationError
from exporter.model import OrderGroup
from exporter.reading.export import Exported, What, export

ODD = r'{"huge":1e400,"nul":"\u0000","text":"=1+1, \"quoted\"\nand more"}'
A = OrderGroup("a", True, "10.00", 0, ODD)
A_OFF = OrderGroup("a", False, "0.123456789", 7)
B = OrderGroup("B-größe-𝄞", True)
C = OrderGroup("c", False, "99999999999999999999.00", 2**53 + 1)

ALL: tuple[What, ...] = ("groups", "history", "changes", "polls", "gaps")


def write_history(recorder: Any) -> None:
    """Record changes, a removal, gaps with and without a cause, and an account that only fails."""
    recorder.ok(0, [A, B])
    recorder.ok(60, [A_OFF, B, C])
    recorder.ok(120, [A_OFF, C])
    recorder.ok(180, [A_OFF, C])
    recorder.fail(240, "unauthorized")
    recorder.fail(300, "unauthorized")
    recorder.fail(360, "timeout")
    recorder.ok(600, [A, C])
    recorder.ok(660, [C])
    recorder.ok(0, [], account="empty")
    recorder.ok(60, [], account="empty")
    recorder.fail(30, "rejected", account="Zweites Konto")


Read = Callable[..., tuple[list[dict[str, Any]], Exported]]


@pytest.fixture
def read(recorder: Any, tmp_path: Path) -> Read:
    """Return a function that exports rows as JSON lines and reads them back."""

    def read(what: What, **how: Any) -> tuple[list[dict[str, Any]], Exported]:
        path = tmp_path / "read.jsonl"
        done = export(recorder.url, what, file_format="jsonl", output=path, **how)
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert len(rows) == done.rows
        return rows, done

    return read


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_both_databases_give_the_same_bytes(
    two_recorders: tuple[Any, ...], file_format: str, tmp_path: Path
) -> None:
    for recorder in two_recorders:
        write_history(recorder)
    on_sqlite, on_postgres = two_recorders
    with on_postgres.database.transaction() as connection:
        name = connection.engine.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'"))
        connection.execute(text(f"ALTER DATABASE {name} SET extra_float_digits = 0"))
    on_postgres.database.close()
    spans: list[dict[str, Any]] = [{}, {"since": on_sqlite.at(60), "until": on_sqlite.at(600.001)}]
    spans += [{"as_of": on_sqlite.at(seconds)} for seconds in (-1, 0, 60, 300, 599, 660, 9999)]
    for what in ALL:
        for how in spans:
            if (what == "groups") == ("since" in how) and (how or what != "groups"):
                continue
            if "as_of" in how and what != "groups":
                continue
            files = [tmp_path / "sqlite", tmp_path / "postgres"]
            done = [
                export(each.url, what, file_format=file_format, output=path, **how)
                for each, path in zip(two_recorders, files, strict=True)
            ]
            assert done[0] == done[1]
            assert files[0].read_bytes() == files[1].read_bytes()
            assert b"\r" not in files[0].read_bytes()


def test_csv_is_exact(recorder: Any, tmp_path: Path) -> None:
    write_history(recorder)
    path = tmp_path / "history.csv"
    export(recorder.url, "history", output=path)
    header, *rows = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
    assert header[:8] == [
        "account",
        "order_group_id",
        "valid_from",
        "valid_to",
        "is_auto_cancel_enabled",
        "contracts_limit",
        "exchange_index",
        "extra",
    ]
    b, a, *_rest = rows
    assert b[:8] == [
        "main",
        "B-größe-𝄞",
        "2026-03-01T12:00:00.123456Z",
        "2026-03-01T12:02:00.123456Z",
        "true",
        "",
        "",
        "",
    ]
    assert a[4:8] == ["true", "10.00", "0", ODD]
    assert dict(zip(header, a, strict=True))["duration_seconds"] == "60.000000"
    assert [row[1] for row in rows] == ["B-größe-𝄞", "a", "a", "c", "a"]  # by time, then id


def test_json_lines_are_exact(recorder: Any, tmp_path: Path) -> None:
    write_history(recorder)
    path = tmp_path / "groups.jsonl"
    export(recorder.url, "groups", as_of=recorder.at(0), file_format="jsonl", output=path)
    b, a = path.read_text("utf-8").splitlines()
    assert f'"extra":{ODD},' in a  # nested, on one line, exactly as it was sent
    assert '"contracts_limit":"10.00","exchange_index":0,' in a
    assert '"is_auto_cancel_enabled":true,' in a
    assert json.loads(b)["extra"] is None


def test_groups_are_the_latest_observation(recorder: Any, read: Read) -> None:
    write_history(recorder)
    rows, done = read("groups")
    assert [(row["order_group_id"], row["missing_since"]) for row in rows] == [
        ("a", "2026-03-01T12:11:00.123456Z"),
        ("c", None),
    ]
    assert all(row["observed"] is True for row in rows)
    assert done.notices == ()


def test_groups_have_the_same_columns_at_any_instant(recorder: Any, read: Read) -> None:
    write_history(recorder)
    now, _done = read("groups")
    then, _done = read("groups", as_of=recorder.at(660))
    assert [list(row) for row in now] == [list(row) for row in then]
    assert now == then


@pytest.mark.parametrize(
    ("seconds", "ids", "observed", "reason"),
    [
        (-0.1, [], None, "before the first observation at 2026-03-01T12:00:00.123456Z"),
        (0, ["B-größe-𝄞", "a"], True, None),
        (59.9, ["B-größe-𝄞", "a"], True, None),
        (60, ["B-größe-𝄞", "a", "c"], True, None),
        (120, ["a", "c"], True, None),
        (180, ["a", "c"], True, None),
        (
            180.1,
            ["a", "c"],
            False,
            (
                "gap from 2026-03-01T12:03:00.123456Z to 2026-03-01T12:10:00.123456Z,"
                " because the exchange refused the key (unauthorized)"
            ),
        ),
        (600, ["a", "c"], True, None),
        (660.5, ["a", "c"], False, "after the last observation at 2026-03-01T12:11:00.123456Z,"),
    ],
)
def test_groups_as_of_an_instant(
    recorder: Any,
    read: Read,
    *,
    seconds: float,
    ids: list[str],
    observed: bool | None,
    reason: str | None,
) -> None:
    write_history(recorder)
    rows, done = read("groups", as_of=recorder.at(seconds), account_names=["main"])
    assert [row["order_group_id"] for row in rows] == ids
    assert {row["observed"] for row in rows} == ({observed} if ids else set())
    if reason is None:
        assert done.notices == ()
    else:
        (notice,) = done.notices
        assert notice.startswith("main: not observed at 2026-03-01T")
        assert reason in notice


def test_groups_of_an_account_that_is_no_longer_observed_have_a_notice(
    recorder: Any, read: Read
) -> None:
    write_history(recorder)
    for name in ("main", "empty"):
        recorder.fail(690, "timeout", account=name)

    def notices(seconds: float, **how: Any) -> tuple[str, ...]:
        return read("groups", now=recorder.at(seconds), **how)[1].notices

    intervals = {"main": 60.0, "empty": 600.0}
    never = "Zweites Konto: never observed, because the exchange refused the request (rejected)"
    assert notices(660 + 150, intervals=intervals) == (never,)
    slow = "because the exchange was too slow (timeout)"
    old = f"main: as of 2026-03-01T12:11:00.123456Z; not observed since, {slow}"
    assert notices(660 + 151, intervals=intervals) == (never, old)
    assert notices(660 + 151, intervals=intervals, account_names=["empty"]) == ()
    assert len(notices(5000)) == 3
    assert read("groups")[1].notices == ()


def test_notices_say_why_an_account_is_not_observed(recorder: Any, read: Read) -> None:
    write_history(recorder)
    recorder.fail(700, "timeout")
    _rows, done = read("groups", as_of=recorder.at(800))
    last = "after the last observation at"
    assert [notice.partition(": ")[2].partition(": ")[2] for notice in done.notices] == [
        f"{since}, because {cause}"
        for since, cause in (
            ("never observed", "the exchange refused the request (rejected)"),
            (f"{last} 2026-03-01T12:01:00.123456Z", "the exporter was not running (not_running)"),
            (f"{last} 2026-03-01T12:11:00.123456Z", "the exchange was too slow (timeout)"),
        )
    ]
    # An account that was observed to be empty has no rows and needs no notice.
    rows, done = read("groups", as_of=recorder.at(30), account_names=["empty"])
    assert (rows, done.notices) == ([], ())


def test_a_span_holds_the_states_and_gaps_that_overlap_it(recorder: Any, read: Read) -> None:
    write_history(recorder)

    def of(what: What, since: float | None, until: float | None, key: str) -> list[str]:
        rows, _done = read(
            what,
            since=None if since is None else recorder.at(since),
            until=None if until is None else recorder.at(until),
        )
        return [row[key] for row in rows]

    assert of("history", None, 60, "order_group_id") == ["B-größe-𝄞", "a"]
    assert of("history", 120, 600, "order_group_id") == ["a", "c"]
    assert of("changes", 60, 120, "change") == ["changed", "appeared"]
    assert of("changes", 60, 121, "change") == ["changed", "appeared", "disappeared"]
    assert of("polls", 239, 301, "outcome") == ["unauthorized", "unauthorized"]
    assert of("gaps", None, 180, "cause") == []
    assert of("gaps", 200, 201, "cause") == ["unauthorized"]
    assert of("gaps", 600, None, "cause") == []


def test_one_account_and_an_unknown_one(recorder: Any, read: Read) -> None:
    write_history(recorder)
    rows, done = read("polls", account_names=["empty", "mian"])
    assert {row["account"] for row in rows} == {"empty"}
    assert done.notices == ("mian: nothing is recorded",)
    _rows, done = read("groups", as_of=recorder.at(0), account_names=["mian"])
    assert "never observed" in done.notices[0]


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("history", {"as_of": 0}),
        ("groups", {"since": 0}),
        ("changes", {"since": 1, "until": 1}),
    ],
)
def test_contradictory_arguments_are_refused(
    sqlite_recorder: Any, what: What, how: dict[str, int], tmp_path: Path
) -> None:
    instants: dict[str, Any] = {key: sqlite_recorder.at(value) for key, value in how.items()}
    with pytest.raises(ValueError, match="--"):
        export(sqlite_recorder.url, what, output=tmp_path / "out.csv", **instants)
    assert not (tmp_path / "out.csv").exists()


def test_rows_of_one_order_group(recorder: Any, read: Read) -> None:
    write_history(recorder)
    asked: list[tuple[What, dict[str, Any], int]] = [
        ("history", {}, 1),
        ("changes", {}, 1),
        ("changes", {"since": recorder.at(61)}, 0),
        ("groups", {"as_of": recorder.at(60)}, 1),
        ("groups", {}, 1),
    ]
    for what, how, count in asked:
        rows, _ = read(what, group_ids=["c"], **how)
        assert [row["order_group_id"] for row in rows] == ["c"] * count, (what, how)
    rows, _ = read("history", group_ids=["a", B.id], account_names=["main"])
    assert {row["order_group_id"] for row in rows} == {"a", B.id}
    assert read("history", group_ids=["c"], account_names=["empty"])[0] == []


@pytest.mark.parametrize("what", ["polls", "gaps"])
def test_polls_and_gaps_take_no_group(sqlite_recorder: Any, what: What, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--group selects order groups"):
        export(sqlite_recorder.url, what, output=tmp_path / "out.csv", group_ids=["c"])


def test_an_empty_history_is_a_header(recorder: Any, tmp_path: Path) -> None:
    for what in ALL:
        done = export(recorder.url, what, output=tmp_path / what)
        assert done.rows == 0
        assert (tmp_path / what).read_text("utf-8").count("\n") == 1


def test_a_failure_leaves_the_existing_file(sqlite_recorder: Any, tmp_path: Path) -> None:
    write_history(sqlite_recorder)
    path = tmp_path / "target" / "polls.csv"
    path.parent.mkdir()
    path.write_text("before")

    def interrupt(_rows: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(sqlite_recorder.url, "polls", output=path, progress=interrupt)
    with pytest.raises(ConfigurationError):
        export(f"sqlite:///{tmp_path}/absent.db", "polls", output=path)
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_parquet_has_types(recorder: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write_history(recorder)
    path = tmp_path / "history.parquet"
    export(recorder.url, "history", file_format="parquet", output=path)
    table = parquet.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert types["valid_from"] == "timestamp[us, tz=UTC]"
    assert types["contracts_limit"] == "decimal128(38, 10)"
    assert types["is_auto_cancel_enabled"] == "bool"
    _b, a, *_rest = table.to_pylist()
    assert a["valid_from"] == recorder.at(0)
    assert a["contracts_limit"] == Decimal("10.00")
    assert a["is_auto_cancel_enabled"] is True
    assert a["duration_seconds"] == 60.0
    assert a["extra"] == ODD
    export(recorder.url, "gaps", file_format="parquet", output=path, until=recorder.at(-1))
    assert parquet.read_table(path).num_rows == 0
