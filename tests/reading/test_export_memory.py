"""Test that an export's memory does not grow with the history."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

MEASURE = """
import resource, sys
from datetime import datetime, UTC
from pathlib import Path
from exporter.reading.export import export

def peak():
    # On Linux, ru_maxrss would include the peak of the process that started this one.
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        (line,) = [each for each in status.splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

url, what, file_format, output = sys.argv[1:]
few = datetime(2026, 3, 1, tzinfo=UTC)
export(url, what, file_format=file_format, output=Path(output), until=few)
before = peak()
counts = []
done = export(
    url, what, file_format=file_format, output=Path(output), progress=lambda *_: counts.append(_)
)
assert {total for _, total in counts} == {done.rows}
rows = [rows for rows, _ in counts]
assert rows[0] == 0 and rows[-1] == done.rows and len(rows) > 5 and rows == sorted(rows)
print(done.rows, peak() - before)
"""


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_memory_does_not_grow_with_the_history(
    recorder: Any, file_format: str, tmp_path: Path
) -> None:
    recorder.fail(0)
    number = "n" if recorder.database.is_sqlite else "n::text"
    instant = (
        "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + n * 60, 'unixepoch')"
        if recorder.database.is_sqlite
        else "to_timestamp(1767225600 + n * 60)"
    )
    with recorder.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO polls (account, started_at, finished_at, outcome, attempts,"
                " error_message, exporter_version)"
                " WITH RECURSIVE numbers (n) AS"
                " (SELECT 84960 UNION ALL SELECT n + 1 FROM numbers WHERE n < 154960)"
                f" SELECT 'main', {instant}, {instant}, 'timeout', 1,"
                f" 'the number of this poll is ' || {number}, '1' FROM numbers"
            )
        )
    rows, growth = _exported(recorder.url, "polls", file_format, tmp_path)
    assert rows == 70_002
    assert growth < _MOST


def test_memory_does_not_grow_with_a_history_that_is_sorted(recorder: Any, tmp_path: Path) -> None:
    recorder.fail(0)
    number, instant, extra = (
        ("n", "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + n * 60, 'unixepoch')", "")
        if recorder.database.is_sqlite
        else ("n::text", "to_timestamp(1767225600 + n * 60)", "::json")
    )
    with recorder.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO order_group_snapshots (account, order_group_id, valid_from,"
                " is_auto_cancel_enabled, extra, first_poll_id)"
                " WITH RECURSIVE numbers (n) AS"
                " (SELECT 84960 UNION ALL SELECT n + 1 FROM numbers WHERE n < 154960)"
                f" SELECT 'main', 'a group with the number ' || {number}, {instant}, 1 = 1,"
                f' \'{{"note": "{"x" * 200}"}}\'{extra}, 1 FROM numbers'
            ).execution_options(no_parameters=True)
        )
    rows, growth = _exported(recorder.url, "history", "csv", tmp_path)
    assert rows == 70_001
    assert growth < _MOST


# KiB. One batch of rows takes some 6 MiB; all rows would take over 30 MiB.
_MOST = 24 * 1024


def _exported(url: str, what: str, file_format: str, directory: Path) -> tuple[int, int]:
    """Export in a process of its own; return the rows, and by how many KiB its memory grew."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, url, what, file_format, str(directory / "exported")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, growth = map(int, done.stdout.split())
    return rows, growth
