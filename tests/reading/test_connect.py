"""Test that readers leave no trace, see one instant, and say why they cannot read."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from exporter.database.database import Database
from exporter.errors import ConfigurationError, DatabaseError, SchemaError
from exporter.history.migrate import migrate
from exporter.model import OrderGroup
from exporter.reading.connect import ReadOnlyDatabase, read_only_transaction

GROUP = OrderGroup("g", True)


def count(url: str, table: str = "polls") -> int:
    with read_only_transaction(url) as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Yield a directory that every user can reach, unlike `tmp_path`."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-reading-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def test_a_missing_file_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "absent.db"
    with pytest.raises(ConfigurationError, match=r"absent\.db does not exist: run .*run-once"):
        count(f"sqlite:///{path}")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_says_what_to_run(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(SchemaError, match="nothing is recorded in the database yet: run"):
        count(database_url)


def test_another_versions_schema_is_refused(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        migrate(database, to="0001")
        with pytest.raises(SchemaError, match=r"at revision 0001, this version reads 0[0-9]+: run"):
            count(database_url)
        with database.transaction() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="9999, newer than"):
        count(database_url)


def test_no_statement_can_write(recorder: Any) -> None:
    recorder.ok(0, [GROUP])
    with (
        pytest.raises(DatabaseError, match=r"(?i)read-?only"),
        read_only_transaction(recorder.url) as reading,
    ):
        reading.execute(text("DELETE FROM polls"))


def test_a_transaction_sees_one_instant(recorder: Any) -> None:
    recorder.ok(0, [GROUP])
    with read_only_transaction(recorder.url) as reading:
        before = reading.execute(text("SELECT count(*) FROM polls")).scalar()
        recorder.ok(60, [GROUP])
        assert reading.execute(text("SELECT count(*) FROM polls")).scalar() == before == 1
    assert count(recorder.url) == 2


def test_postgres_settings_belong_to_the_transaction(postgres_url: str) -> None:
    names = ("isolation", "read_only")
    with (
        closing(ReadOnlyDatabase(postgres_url)) as database,
        database.transaction() as connection,
    ):
        settings = [
            connection.execute(text(f"SHOW {prefix}transaction_{name}")).scalar()
            for prefix in ("", "default_")
            for name in names
        ]
    assert settings == ["repeatable read", "on", "read committed", "off"]


def test_reading_a_closed_sqlite_file_leaves_nothing_beside_it(sqlite_recorder: Any) -> None:
    sqlite_recorder.ok(0, [GROUP])
    sqlite_recorder.database.close()
    path = sqlite_recorder.database.path
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert list(path.parent.iterdir()) == [path]
    with read_only_transaction(sqlite_recorder.url):
        assert list(path.parent.iterdir()) == [path]
    assert count(sqlite_recorder.url) == 1
    assert list(path.parent.iterdir()) == [path]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_what_a_full_disk_left_beside_a_file_is_neither_used_nor_extended(
    sqlite_recorder: Any,
) -> None:
    sqlite_recorder.ok(0, [GROUP])
    sqlite_recorder.database.close()
    path = sqlite_recorder.database.path
    path.with_name(f"{path.name}-wal").touch()
    index = path.with_name(f"{path.name}-shm")
    index.write_bytes(bytes(3))
    assert count(sqlite_recorder.url) == 1
    assert index.read_bytes() == bytes(3)


def test_a_poll_by_another_process_does_not_disturb_a_reader(sqlite_recorder: Any) -> None:
    sqlite_recorder.ok(0, [GROUP])
    sqlite_recorder.database.close()
    with read_only_transaction(sqlite_recorder.url) as reading:
        assert _poll_in_another_process(sqlite_recorder.database.path) == ""
        assert reading.execute(text("SELECT count(*) FROM polls")).scalar() == 1
    assert count(sqlite_recorder.url) == 2


def test_a_file_that_changes_during_a_read_is_an_error(sqlite_recorder: Any) -> None:
    sqlite_recorder.ok(0, [GROUP])
    sqlite_recorder.database.close()
    path = sqlite_recorder.database.path

    def read_meanwhile(*, error: Exception | None = None) -> None:
        with read_only_transaction(sqlite_recorder.url) as reading:
            reading.execute(text("SELECT count(*) FROM polls"))
            os.utime(path)  # as the checkpoint of a long-running exporter does
            if error is not None:
                raise error

    with pytest.raises(DatabaseError, match="changed while it was read: try again"):
        read_meanwhile()
    with pytest.raises(DatabaseError, match="changed while it was read: try again"):
        read_meanwhile(error=DatabaseError("database: database disk image is malformed"))
    with pytest.raises(KeyError):
        read_meanwhile(error=KeyError("not the database's"))


def _poll_in_another_process(path: Path) -> str:
    program = f"""
import sqlite3
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute(
    "INSERT INTO polls (account, started_at, finished_at, outcome, attempts, exporter_version)"
    " VALUES ('main', '2026', '2026', 'timeout', 1, '')"
)
connection.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return done.stderr


@pytest.fixture
def live_copy(sqlite_recorder: Any, open_directory: Path) -> Path:
    """Return a copy of a database and its write-ahead log, taken while an exporter runs."""
    sqlite_recorder.ok(0, [GROUP])
    source = sqlite_recorder.database.path
    for suffix in ("", "-wal", "-shm"):
        copy = open_directory / f"copy.db{suffix}"
        shutil.copy(f"{source}{suffix}", copy)
        copy.chmod(0o444)
    open_directory.chmod(0o555)
    return open_directory / "copy.db"


def test_a_read_only_directory_without_a_write_ahead_log(
    sqlite_recorder: Any, open_directory: Path
) -> None:
    sqlite_recorder.ok(0, [GROUP])
    sqlite_recorder.database.close()
    copy = open_directory / "copy.db"
    shutil.copy(sqlite_recorder.database.path, copy)
    copy.chmod(0o444)
    open_directory.chmod(0o555)
    read_as_another_user(copy, 1)
    # An empty write-ahead log, left by an exporter that wrote nothing, counts as none.
    open_directory.chmod(0o755)
    copy.with_name("copy.db-wal").touch(mode=0o444)
    open_directory.chmod(0o555)
    read_as_another_user(copy, 1)


def test_a_read_only_directory_with_its_write_ahead_log(live_copy: Path) -> None:
    read_as_another_user(live_copy, 1)


def test_a_read_only_directory_without_the_shared_memory_file(live_copy: Path) -> None:
    live_copy.parent.chmod(0o755)
    live_copy.with_name("copy.db-shm").unlink()
    live_copy.parent.chmod(0o555)
    with pytest.raises(DatabaseError, match=r"newest rows are in .*-wal, .* copy that file"):
        read_as_another_user(live_copy, 1)


def test_a_read_only_directory_under_a_running_exporter(open_directory: Path) -> None:
    path = open_directory / "live.db"
    with closing(Database(f"sqlite:///{path}")) as database:
        migrate(database)
        with database.transaction() as connection:  # the first use creates the write-ahead log
            connection.execute(text("DELETE FROM polls"))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").chmod(0o444)
        open_directory.chmod(0o555)
        read_as_another_user(path, 0)


def test_a_file_that_this_user_may_not_read(live_copy: Path) -> None:
    live_copy.chmod(0o600)
    if os.geteuid() != 0:
        live_copy.chmod(0o000)
    with pytest.raises(DatabaseError, match=f"{live_copy} may not be read by"):
        read_as_another_user(live_copy, 1)


def read_as_another_user(path: Path, polls: int) -> None:
    before = sorted(path.parent.iterdir())
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert count(f"sqlite:///{path}") == polls
    finally:
        if root:
            os.seteuid(0)
    assert sorted(path.parent.iterdir()) == before


def test_a_copy_with_a_rollback_journal_is_readable(sqlite_recorder: Any, tmp_path: Path) -> None:
    sqlite_recorder.ok(0, [GROUP])
    with closing(sqlite3.connect(sqlite_recorder.database.path)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "vacuumed.db"),))
    assert count(f"sqlite:///{tmp_path / 'vacuumed.db'}") == 1


def test_errors_are_one_line(postgres_url: str) -> None:
    unreachable = postgres_url.replace("test_", "absent_")
    with pytest.raises(DatabaseError) as caught:
        count(unreachable)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DBAPIError)
