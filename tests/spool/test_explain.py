"""What a spool that cannot be used says, for the errors that SQLite and the system really give."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exporter.spool.explain import explain
from tests.support.users import unprivileged


def error_of(path: Path) -> sqlite3.Error:
    """Return SQLite's error when it writes to a file."""
    with pytest.raises(sqlite3.Error) as caught, closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE polls (id INTEGER)")
    return caught.value


def test_a_damaged_file_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"this was never a database, and is long enough to be taken for one" * 20)
    said = explain(path, error_of(path))
    assert said is not None
    damaged, remedy = said.split(": ")
    assert damaged == f"{path} is damaged (file is not a database)"
    assert remedy == "move it away, and the next poll begins another"


def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.mkdir()
    assert explain(path, error_of(path)) == f"{path} is a directory: name a file in it"


def test_a_file_as_its_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file" / "spool.db"
    path.parent.touch()
    said = f"{path.parent} is not a directory: correct the path"
    assert explain(path, error_of(path)) == said
    assert explain(path, NotADirectoryError(20, "Not a directory")) == said


def test_a_missing_permission_is_named_with_its_remedy() -> None:
    with unprivileged() as own:
        directory = own / "spool"
        directory.mkdir(mode=0o500)
        path = directory / "spool.db"
        said = explain(path, error_of(path))
    assert said is not None
    assert said.endswith(f"its mode is 0500: chmod u+rwx {directory}")


def test_nothing_is_said_of_what_is_not_about_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.Error) as caught:
        connection.execute("SELECT * FROM missing")
    assert explain(path, caught.value) is None
