"""Test that readers disturb no poll, and need neither keys nor the network."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from exporter.model import OrderGroup
from exporter.reading.connect import read_only_transaction
from exporter.reading.export import export

COUNT = "SELECT COUNT(*) FROM order_group_history"


def groups(number: int) -> Iterator[OrderGroup]:
    """Return a hundred groups, each of which differs from one `number` to the next."""
    return (OrderGroup(f"g{each}", number % 2 == 0, f"{number}.00") for each in range(100))


def test_polls_continue_beside_a_long_reader(recorder: Any) -> None:
    recorder.ok(0, groups(0))
    slowest = 0.0
    with read_only_transaction(recorder.url) as reading:
        before = reading.execute(text(COUNT)).scalar()
        for number in range(1, 40):
            started = time.perf_counter()
            recorder.ok(number * 60, groups(number))
            slowest = max(slowest, time.perf_counter() - started)
        assert reading.execute(text(COUNT)).scalar() == before == 100
    assert slowest < 5  # the wait for a lock is twice as long
    with read_only_transaction(recorder.url) as reading:
        assert reading.execute(text(COUNT)).scalar() == 4_000


def test_the_write_ahead_log_stays_small_beside_short_readers(sqlite_recorder: Any) -> None:
    path = sqlite_recorder.database.path
    wal = path.with_name(f"{path.name}-wal")
    sizes = []
    sqlite_recorder.ok(0, groups(0))
    for number in range(1, 120):
        # Every fourth poll has no reader beside it, so SQLite restarts the write-ahead log.
        if number % 4:
            with read_only_transaction(sqlite_recorder.url) as reading:
                reading.execute(text(COUNT)).scalar()
                sqlite_recorder.ok(number * 60, groups(number))
        else:
            sqlite_recorder.ok(number * 60, groups(number))
        sizes.append(wal.stat().st_size)
    assert max(sizes[60:]) <= 2 * max(sizes[:60])
    assert max(sizes) < 32 * 2**20


def test_the_write_ahead_log_is_reused_after_a_long_reader(sqlite_recorder: Any) -> None:
    path = sqlite_recorder.database.path
    wal = path.with_name(f"{path.name}-wal")
    sqlite_recorder.ok(0, groups(0))
    with read_only_transaction(sqlite_recorder.url) as reading:
        reading.execute(text(COUNT)).scalar()
        for number in range(1, 60):
            sqlite_recorder.ok(number * 60, groups(number))
    grown = wal.stat().st_size
    for number in range(60, 110):
        sqlite_recorder.ok(number * 60, groups(number))
    assert wal.stat().st_size <= grown + 8 * 2**20


def wal_sizes_beside_constant_readers(
    recorder: Any, between: Callable[[], None], polls: int
) -> list[int]:
    """Return the write-ahead log's size after each poll, with a reader open at all times."""
    path = recorder.database.path
    sizes = []
    recorder.ok(0, groups(0))

    def open_reader(stack: ExitStack) -> ExitStack:
        following = ExitStack()
        following.enter_context(read_only_transaction(recorder.url)).execute(text(COUNT)).scalar()
        stack.close()
        return following

    reader = open_reader(ExitStack())
    for number in range(1, polls):
        recorder.ok(number * 60, groups(number))
        reader = open_reader(reader)
        between()
        reader = open_reader(reader)
        sizes.append(path.with_name(f"{path.name}-wal").stat().st_size)
    reader.close()
    return sizes


def test_the_write_ahead_log_is_bounded_beside_constant_readers(
    sqlite_recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = 2**20
    monkeypatch.setattr("exporter.database.wal.LARGE", large)
    sizes = wal_sizes_beside_constant_readers(sqlite_recorder, sqlite_recorder.store.maintain, 80)
    assert max(sizes) < 1.5 * large


def test_without_maintenance_the_write_ahead_log_would_grow(sqlite_recorder: Any) -> None:
    sizes = wal_sizes_beside_constant_readers(sqlite_recorder, lambda: None, 80)
    assert sizes[-1] > 1.8 * sizes[40] > 2 * 2**20


def test_the_write_ahead_log_shrinks_after_an_endless_reader(
    sqlite_recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = 2**20
    monkeypatch.setattr("exporter.database.wal.LARGE", large)
    path = sqlite_recorder.database.path
    wal = path.with_name(f"{path.name}-wal")
    sqlite_recorder.database.close()  # the next connection has the limit
    sqlite_recorder.ok(0, groups(0))
    with read_only_transaction(sqlite_recorder.url) as reading:
        reading.execute(text(COUNT)).scalar()
        for number in range(1, 60):
            started = time.perf_counter()
            sqlite_recorder.store.maintain()
            sqlite_recorder.ok(number * 60, groups(number))
            assert time.perf_counter() - started < 5
        assert wal.stat().st_size > 3 * large  # the limit that docs/queries.md names
    for number in range(60, 64):
        sqlite_recorder.ok(number * 60, groups(number))
        sqlite_recorder.store.maintain()
    assert wal.stat().st_size <= 1.5 * large


def test_each_export_beside_polls_sees_one_instant(recorder: Any, tmp_path: Path) -> None:
    recorder.ok(0, groups(0))
    script = (
        "import sys; from pathlib import Path; from exporter.reading.export import export\n"
        "for number in range(8):\n"
        "    print(export(sys.argv[1], 'history', output=Path(sys.argv[2])).rows, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, recorder.url, str(tmp_path / "history.csv")],
        stdout=subprocess.PIPE,
        text=True,
    ) as exports:
        number = 0
        while exports.poll() is None and number < 2_000:
            number += 1
            recorder.ok(number * 60, groups(number))
        output, _ = exports.communicate(timeout=60)
    assert exports.returncode == 0
    rows = [int(line) for line in output.split()]
    assert len(rows) == 8
    assert rows == sorted(rows)
    assert all(count % 100 == 0 for count in rows)  # never half of a poll


def test_reading_commands_need_no_key_and_no_network(
    sqlite_recorder: Any,
    tmp_path: Path,
    write_config: Callable[..., Path],
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    sqlite_recorder.ok(0, groups(0))
    sqlite_recorder.database.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(sqlite_recorder.database.path, copy / "history.db")
    (copy / "history.db").chmod(0o444)
    copy.chmod(0o555)
    write_config(
        database_url=f"sqlite:///{copy}/history.db",
        base_url="http://127.0.0.1:9/trade-api/v2",
        account={"private_key_file": str(tmp_path / "not there.pem")},
    )
    for arguments in (["export", "groups"], ["export", "groups", "--as-of", "2026-03-02"]):
        done = run_cli(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 101
    assert run_cli("status", "--max-age", "36500d").returncode == 0
    assert [path.name for path in copy.iterdir()] == ["history.db"]


@pytest.mark.parametrize(
    ("typed", "rows"),
    [
        ("2026-03-01T17:45:00.123455+05:45", 0),
        ("2026-03-01T17:45:00.123456+05:45", 100),
        ("2026-03-01T12:00:00.123456Z", 100),
        ("2026-03-01T07:00:00.123456-05:00", 100),
        ("2026-03-01T12:00:00.123455", 0),
        ("2026-03-01", 0),
    ],
)
def test_as_of_instants_with_offsets(
    typed: str, rows: int, sqlite_recorder: Any, tmp_path: Path
) -> None:
    from exporter.reading.instants import parse_instant

    sqlite_recorder.ok(0, groups(0))
    instant, _ = parse_instant(typed)
    done = export(sqlite_recorder.url, "groups", as_of=instant, output=tmp_path / "out.csv")
    assert done.rows == rows
    assert bool(done.notices) == (rows == 0)  # before the first poll nothing was observed


@pytest.mark.parametrize("typed", ["0001-01-01", "0999-12-31T23:59:59Z", "9999-12-31"])
def test_as_of_the_ends_of_the_calendar(typed: str, recorder: Any, tmp_path: Path) -> None:
    from exporter.reading.instants import parse_instant

    recorder.ok(0, groups(0))
    instant, _ = parse_instant(typed)
    done = export(recorder.url, "groups", as_of=instant, output=tmp_path / "out.csv")
    assert done.rows == (0 if typed < "2" else 100)
    assert len(done.notices) == 1
