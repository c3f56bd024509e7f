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
    unit = 1 if sys.platform == "linux" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

url, file_format, output = sys.argv[1:]
few = datetime(2026, 3, 1, tzinfo=UTC)
export(url, "polls", file_format=file_format, output=Path(output), until=few)
before = peak()
counts = []
done = export(
    url, "polls", file_format=file_format, output=Path(output), progress=lambda *_: counts.append(_)
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
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, recorder.url, file_format, str(tmp_path / "polls")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, growth = map(int, done.stdout.split())
    assert rows == 70_002
    # `growth` is in KiB. One batch of rows takes some 6 MiB; all rows would take over 60 MiB.
    assert growth < 24 * 1024
