"""A SQLite file that is replaced or overwritten while it is open never mixes with another one."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from exporter.database.database import Database
from exporter.database.sqlite_connection import SqliteConnection
from exporter.errors import DatabaseError
from exporter.reading.connect import ReadOnlyDatabase


def _make(path: Path, number: int) -> None:
    # The file is made under another name, because SQLite would delete a write-ahead log that it
    # finds beside an empty file.
    made = path.with_name(f"made-{number}")
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("CREATE TABLE numbers (number INTEGER)")
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        connection.commit()
    made.rename(path)


def numbers(path: Path) -> list[int]:
    """Return the numbers in a database, and check its integrity."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [number for (number,) in connection.execute("SELECT number FROM numbers")]


def add(database: Database, number: int) -> None:
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO numbers VALUES (:number)"), {"number": number})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Yield a database with 1 in its file, and with 2 and 3 only in its write-ahead log."""
    path = tmp_path / "live.db"
    _make(path, 1)
    database = Database(f"sqlite:///{path}")
    with closing(database):
        database.enable_wal()
        add(database, 2)
        add(database, 3)
        yield database


def test_the_log_of_a_moved_file_is_checkpointed_into_that_file(
    database: Database, tmp_path: Path
) -> None:
    live, moved = tmp_path / "live.db", tmp_path / "moved.db"
    log = tmp_path / "live.db-wal"
    assert log.stat().st_size > 0
    live.rename(moved)
    _make(live, 10)
    with pytest.raises(DatabaseError, match="another file has taken the place"):
        add(database, 4)
    assert not log.exists()
    assert numbers(moved) == [1, 2, 3]
    assert numbers(live) == [10]
    assert database.generation == 1
    add(database, 11)
    assert numbers(live) == [10, 11]
    assert numbers(moved) == [1, 2, 3]


def test_the_log_of_a_new_file_is_left_alone(database: Database, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("live.db*"):
        path.rename(elsewhere / path.name)
    live = tmp_path / "live.db"
    _make(live, 10)
    with closing(sqlite3.connect(live)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("INSERT INTO numbers VALUES (11)")
        other.commit()
        with pytest.raises(DatabaseError, match="another file has taken the place"):
            add(database, 4)
        assert (tmp_path / "live.db-wal").exists()
        add(database, 12)
    assert numbers(live) == [10, 11, 12]
    assert numbers(elsewhere / "live.db") == [1, 2, 3]


def test_a_link_in_place_of_the_file_moves_its_log(database: Database, tmp_path: Path) -> None:
    live, moved = tmp_path / "live.db", tmp_path / "moved.db"
    live.rename(moved)
    live.symlink_to(moved.name)
    with pytest.raises(DatabaseError, match="another file has taken the place"):
        add(database, 4)
    assert not (tmp_path / "live.db-wal").exists()
    add(database, 5)
    assert (tmp_path / "moved.db-wal").exists()
    assert numbers(live) == numbers(moved) == [1, 2, 3, 5]


def test_a_deleted_log_is_checkpointed_into_the_file(database: Database, tmp_path: Path) -> None:
    live, log = tmp_path / "live.db", tmp_path / "live.db-wal"
    log.unlink()
    with pytest.raises(DatabaseError, match=r"its write-ahead log, live[.]db-wal, was"):
        add(database, 4)
    add(database, 5)
    assert log.exists()
    assert numbers(live) == [1, 2, 3, 5]


def test_processes_do_not_write_with_different_indexes(database: Database, tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    (tmp_path / "live.db-shm").unlink()
    with pytest.raises(DatabaseError, match=r"the index of its log, live[.]db-shm, was"):
        add(database, 4)
    add(database, 5)
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
    insert = "INSERT INTO numbers VALUES (100)"
    subprocess.run([sys.executable, "-c", code, live, insert], check=True)
    add(database, 6)
    assert numbers(live) == [1, 2, 3, 5, 100, 6]


def test_a_linked_file_is_watched_too(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    _make(directory / "real.db", 1)
    link = tmp_path / "live.db"
    link.symlink_to(directory / "real.db")
    database = Database(f"sqlite:///{link}")
    with closing(database):
        database.enable_wal()
        add(database, 2)
        (directory / "real.db").rename(directory / "moved.db")
        _make(directory / "real.db", 10)
        with pytest.raises(DatabaseError, match="another file has taken the place"):
            add(database, 3)
        assert not (directory / "real.db-wal").exists()
        add(database, 11)
    assert numbers(link) == [10, 11]
    assert numbers(directory / "moved.db") == [1, 2]


def test_a_copy_over_the_file_is_not_mixed_with_its_log(database: Database, tmp_path: Path) -> None:
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    _make(backup, 10)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("CREATE TABLE more (number INTEGER)")
    add(database, 4)
    shutil.copyfile(backup, live)
    with pytest.raises(DatabaseError, match="overwritten"):
        add(database, 5)
    assert numbers(live) == [10]
    add(database, 11)
    assert numbers(live) == [10, 11]


def test_every_use_fails_until_a_missing_file_is_back(database: Database, tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    live.unlink()
    for _ in range(3):
        with pytest.raises(DatabaseError, match="the file is gone"):
            add(database, 4)
    live.touch()
    with pytest.raises(DatabaseError, match="the file is gone"):
        add(database, 4)
    with pytest.raises(DatabaseError, match="the file is gone"):
        database.require_file()
    live.unlink()
    _make(live, 10)
    database.require_file()
    add(database, 11)
    assert numbers(live) == [10, 11]
    assert database.generation == 1


def test_a_file_replaced_while_it_is_opened_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, moved = tmp_path / "live.db", tmp_path / "moved.db"
    _make(live, 1)
    database = Database(f"sqlite:///{live}")
    really_open = SqliteConnection.open

    def open_and_replace(connection: SqliteConnection) -> sqlite3.Connection:
        opened = really_open(connection)
        monkeypatch.undo()
        live.rename(moved)
        _make(live, 10)
        return opened

    monkeypatch.setattr(SqliteConnection, "open", open_and_replace)
    with closing(database):
        with pytest.raises(DatabaseError, match="moved while it was opened"):
            add(database, 2)
        add(database, 11)
    assert numbers(moved) == [1]
    assert numbers(live) == [10, 11]


def test_maintenance_leaves_another_file_alone(database: Database, tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE large (content BLOB)"))
        for _ in range(20):
            connection.execute(text("INSERT INTO large VALUES (randomblob(1000000))"))
    live.rename(tmp_path / "moved.db")
    _make(live, 10)
    before = live.read_bytes()
    database.maintain()
    assert live.read_bytes() == before


def test_closing_leaves_no_log_beside_another_file(database: Database, tmp_path: Path) -> None:
    live, moved = tmp_path / "live.db", tmp_path / "moved.db"
    live.rename(moved)
    _make(live, 10)
    database.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live.db", "moved.db"]
    assert numbers(moved) == [1, 2, 3]
    assert numbers(live) == [10]


def test_closing_does_not_write_the_log_into_an_overwritten_file(
    database: Database, tmp_path: Path
) -> None:
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    _make(backup, 10)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("CREATE TABLE more (number INTEGER)")
    add(database, 4)
    shutil.copyfile(backup, live)
    database.close()
    assert numbers(live) == [10]


def test_a_reader_leaves_the_log_alone(database: Database, tmp_path: Path) -> None:
    live, moved, log = (tmp_path / name for name in ("live.db", "moved.db", "live.db-wal"))
    with closing(ReadOnlyDatabase(f"sqlite:///{live}")) as reader:
        with reader.transaction() as connection:
            assert connection.execute(text("SELECT COUNT(*) FROM numbers")).scalar_one() == 3
        live.rename(moved)
        _make(live, 10)
        before = log.read_bytes()
    assert log.read_bytes() == before
    with pytest.raises(DatabaseError, match="another file has taken the place"):
        add(database, 4)
    assert numbers(moved) == [1, 2, 3]


def test_a_checkpoint_during_a_check_is_not_taken_for_an_overwritten_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live.db"
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE more (number INTEGER)"))  # this changes the header
    read = os.pread

    def read_and_checkpoint(descriptor: int, size: int, offset: int) -> bytes:
        monkeypatch.setattr(os, "pread", read)
        content = read(descriptor, size, offset)
        with closing(sqlite3.connect(live)) as other:
            checkpointed = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert 0 < checkpointed[2] < checkpointed[1]
        return content

    with closing(sqlite3.connect(live, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM numbers").fetchall()
        # While the reader is open, new rows stay in the log and do not reach the file.
        add(database, 4)
        monkeypatch.setattr(os, "pread", read_and_checkpoint)
        add(database, 5)
        add(database, 6)
    assert database.generation == 0
    assert numbers(live) == [1, 2, 3, 4, 5, 6]
