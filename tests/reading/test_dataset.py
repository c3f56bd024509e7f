"""Test datasets: Parquet directories by account and day, without duplicate rows."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from exporter.model import OrderGroup
from exporter.reading.dataset import escaped
from exporter.reading.export import Exported, What, export
from exporter.reading.output import OutputError

pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")

DAY = 86_400
ODD = "a/b=c %41 größe"  # a directory's name must escape some of it
ON = OrderGroup("g", True, "10.0000000001", 2**40)
OFF = OrderGroup("g", False, None, None, '{"note": "x"}')


def first_days(recorder: Any) -> None:
    recorder.ok(0, [ON])
    recorder.ok(60, [ON, OrderGroup("h", True)])
    recorder.ok(DAY, [OFF], confirm_removal=1)
    recorder.ok(DAY - 30, [ON], account=ODD)


def next_days(recorder: Any) -> None:
    recorder.ok(DAY + 600, [ON])
    recorder.fail(2 * DAY, "timeout")
    recorder.ok(3 * DAY, [ON, OrderGroup("i", False)])
    recorder.ok(3 * DAY, [OFF], account=ODD)


def write(recorder: Any, what: What, directory: Path, **how: Any) -> Exported:
    return export(recorder.url, what, file_format="parquet", output=directory, dataset=True, **how)


def read(directory: Path) -> list[tuple[Any, ...]]:
    return list(
        duckdb.execute(
            "SELECT COLUMNS(*)::VARCHAR FROM read_parquet(?, hive_partitioning = true)"
            " ORDER BY ALL",
            [f"{directory}/**/*.parquet"],
        ).fetchall()
    )


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_ino, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


SPANNED: tuple[What, ...] = ("history", "changes", "polls", "gaps")


@pytest.mark.parametrize("what", SPANNED)
def test_later_exports_add_rows_without_duplicates(
    recorder: Any, what: What, tmp_path: Path
) -> None:
    first_days(recorder)
    once, bit_by_bit = tmp_path / "once", tmp_path / "bit by bit"
    write(recorder, what, bit_by_bit)
    next_days(recorder)
    before = contents(bit_by_bit)
    since = recorder.at(DAY + 1)
    write(recorder, what, bit_by_bit, since=since)
    assert write(recorder, what, once).rows == len(read(once)) > 0
    assert read(bit_by_bit) == read(once)
    again = contents(bit_by_bit)

    # Earlier days keep their files, unless one of their states has ended in the meantime.
    if what in {"changes", "polls"}:
        assert before
        untouched = [name for name in before if "date=2026-03-01" in name]
        assert untouched
        assert all(again[name] == before[name] for name in untouched)

    # Exporting a span again, even in part, changes no row, because it writes whole days.
    write(recorder, what, bit_by_bit, since=since)
    write(recorder, what, bit_by_bit, since=since, until=since + timedelta(hours=1))
    assert read(bit_by_bit) == read(once)
    assert {name: data for name, (_, data) in contents(bit_by_bit).items()} == {
        name: data for name, (_, data) in again.items()
    }


def test_columns_are_typed_and_paths_name_the_account(recorder: Any, tmp_path: Path) -> None:
    first_days(recorder)
    next_days(recorder)
    write(recorder, "changes", tmp_path / "changes")
    names = sorted(path.name for path in (tmp_path / "changes").iterdir())
    assert names == ["account=a%2Fb%3Dc %2541 größe", "account=main"]
    days = sorted(path.name for path in (tmp_path / "changes" / "account=main").iterdir())
    assert days == ["date=2026-03-01", "date=2026-03-02", "date=2026-03-04"]

    where = f"read_parquet('{tmp_path}/changes/**/*.parquet', hive_partitioning = true)"
    types = {row[0]: row[1] for row in duckdb.execute(f"DESCRIBE SELECT * FROM {where}").fetchall()}
    assert types["account"] == "VARCHAR"
    assert types["date"] == "DATE"
    assert types["changed_at"] == "TIMESTAMP WITH TIME ZONE"
    assert types["new_is_auto_cancel_enabled"] == "BOOLEAN"
    assert types["new_contracts_limit"] == "DECIMAL(38,10)"
    assert types["new_exchange_index"] == "BIGINT"
    rows = duckdb.execute(
        f"SELECT new_contracts_limit, epoch_us(changed_at) FROM {where} WHERE account = ?"
        " ORDER BY changed_at",
        [ODD],
    ).fetchall()
    microseconds = [
        round(recorder.at(seconds).timestamp() * 1_000_000) for seconds in (DAY - 30, 3 * DAY)
    ]
    assert rows == [(Decimal("10.0000000001"), microseconds[0]), (None, microseconds[1])]


def test_pandas_reads_it(sqlite_recorder: Any, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    first_days(sqlite_recorder)
    write(sqlite_recorder, "history", tmp_path / "history")
    # A separate process imports pandas, whose many warnings would fail this one.
    script = (
        "import pandas as pd, json, sys\n"
        "frame = pd.read_parquet(sys.argv[1])\n"
        "frame = frame.sort_values(['account', 'valid_from', 'order_group_id'])\n"
        "print(json.dumps([\n"
        "    {column: str(kind) for column, kind in frame.dtypes.items()},\n"
        "    [str(each) for each in frame['account']],\n"
        "    [str(each) for each in frame['contracts_limit']]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "history")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    types, names, limits = json.loads(done.stdout)
    assert types["valid_from"].endswith("UTC]")
    assert types["is_auto_cancel_enabled"] == "bool"
    assert names == [ODD, "main", "main", "main"]
    assert limits[:2] == ["10.0000000001"] * 2


def test_files_use_widely_supported_types(recorder: Any, tmp_path: Path) -> None:
    from pyarrow import parquet

    first_days(recorder)
    write(recorder, "history", tmp_path / "history")
    [path] = (tmp_path / "history" / "account=main" / "date=2026-03-01").iterdir()
    assert path.name == "history.parquet"
    with parquet.ParquetFile(path) as file:
        columns = {column.name: column for column in map(file.schema.column, range(14))}
        assert len(file.schema) == len(columns)  # no nested column and no `account`
        valid_from = json.loads(columns["valid_from"].logical_type.to_json())
        assert valid_from["Type"] == "Timestamp"
        assert valid_from["isAdjustedToUTC"]
        assert valid_from["timeUnit"] == "microseconds"
        limit = json.loads(columns["contracts_limit"].logical_type.to_json())
        assert (limit["precision"], limit["scale"]) == (38, 10)
        assert columns["contracts_limit"].physical_type == "FIXED_LEN_BYTE_ARRAY"
        assert columns["is_auto_cancel_enabled"].physical_type == "BOOLEAN"
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"


_SPARK = """
import json, sys
from pyspark.sql import SparkSession
spark = (
    SparkSession.builder.master("local[1]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
frame = spark.read.parquet(sys.argv[1])
rows = frame.where("date = '2026-03-01'").orderBy("account", "valid_from", "order_group_id")
print(json.dumps([
    dict(frame.dtypes),
    [[row.account, str(row.contracts_limit)] for row in rows.collect()],
    frame.where("date = '2026-03-01'").selectExpr("min(unix_micros(valid_from))").first()[0],
]))
"""


def test_spark_reads_it(sqlite_recorder: Any, tmp_path: Path) -> None:
    if find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip("NO SPARK: pip install pyspark (400 MB), and Java, to have it read a dataset")
    first_days(sqlite_recorder)
    write(sqlite_recorder, "history", tmp_path / "history")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SPARK, str(tmp_path / "history")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    types, rows, earliest = json.loads(done.stdout.splitlines()[-1])
    assert types["valid_from"] == "timestamp"
    assert types["contracts_limit"] == "decimal(38,10)"
    assert types["is_auto_cancel_enabled"] == "boolean"
    assert types["account"] == "string"
    assert types["date"] == "date"
    assert rows == [["main", "10.0000000001"], ["main", "None"]]
    assert earliest == round(sqlite_recorder.at(0).timestamp() * 1_000_000)


def test_groups_are_kept_per_instant(recorder: Any, tmp_path: Path) -> None:
    first_days(recorder)
    for seconds in (60, DAY - 100, DAY, DAY, 60):
        write(recorder, "groups", tmp_path / "groups", as_of=recorder.at(seconds))
    where = f"read_parquet('{tmp_path}/groups/**/*.parquet', hive_partitioning = true)"
    counts = duckdb.execute(
        f"SELECT epoch_us(as_of), COUNT(*) FROM {where} GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [count for _, count in counts] == [2, 2, 2]
    with pytest.raises(ValueError, match="--as-of"):
        write(recorder, "groups", tmp_path / "groups")


def test_a_directory_holds_one_kind_of_rows(sqlite_recorder: Any, tmp_path: Path) -> None:
    first_days(sqlite_recorder)
    write(sqlite_recorder, "polls", tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError, match="holds polls: give changes a directory"):
        write(sqlite_recorder, "changes", tmp_path / "out")
    with pytest.raises(ValueError, match="parquet"):
        export(sqlite_recorder.url, "polls", output=tmp_path / "out", dataset=True)
    assert contents(tmp_path / "out") == before


def test_a_failure_leaves_the_dataset_as_it_was(sqlite_recorder: Any, tmp_path: Path) -> None:
    first_days(sqlite_recorder)
    write(sqlite_recorder, "polls", tmp_path / "out")
    before = contents(tmp_path / "out")
    next_days(sqlite_recorder)

    def fail(_rows: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(sqlite_recorder, "polls", tmp_path / "out", progress=fail)
    assert contents(tmp_path / "out") == before
    assert list((tmp_path / "out").glob(".*")) == []


def test_an_empty_history_creates_no_file(recorder: Any, tmp_path: Path) -> None:
    recorder.ok(0, [])
    assert write(recorder, "changes", tmp_path / "out").rows == 0
    assert contents(tmp_path / "out") == {}


def test_the_command_line(
    sqlite_recorder: Any,
    tmp_path: Path,
    write_config: Callable[..., Path],
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    first_days(sqlite_recorder)
    write_config(database_url=sqlite_recorder.url, base_url="http://127.0.0.1:9/trade-api/v2")
    for place in ("polls/", "polls"):  # a slash names a directory; the second one exists
        done = run_cli("export", "polls", "--format", "parquet", "-o", place)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(read(tmp_path / "polls")) == 4
    done = run_cli("export", "polls", "-o", "polls/")
    assert done.returncode == 2
    assert "a directory takes --format parquet" in done.stderr


def test_names_are_escaped_as_hive_does() -> None:
    assert escaped("plain-größe_1.x y") == "plain-größe_1.x y"
    assert escaped('/:=%*?"\\\x01') == "%2F%3A%3D%25%2A%3F%22%5C%01"
