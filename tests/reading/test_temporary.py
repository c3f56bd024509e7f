"""Test where SQLite's temporary files may go."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.reading.temporary import has_temporary_room


class _FileSystem(NamedTuple):
    """The part of `os.statvfs_result` that counts."""

    f_bavail: int
    f_frsize: int = 4096


@pytest.mark.parametrize(("free_blocks", "has_room"), [(1, False), (3, True)])
def test_the_directory_of_the_environment_needs_room_for_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_blocks: int, has_room: bool
) -> None:
    database = tmp_path / "order_groups.db"
    database.write_bytes(bytes(8192))
    looked_at = []

    def statvfs(directory: Path) -> _FileSystem:
        looked_at.append(directory)
        return _FileSystem(free_blocks)

    monkeypatch.setattr(os, "statvfs", statvfs)
    environment = {"SQLITE_TMPDIR": str(tmp_path / "missing"), "TMPDIR": str(tmp_path)}
    assert has_temporary_room(database, environment) == has_room
    assert looked_at == [tmp_path]


def test_without_a_writable_directory_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "order_groups.db"
    database.write_bytes(bytes(8192))
    monkeypatch.setattr(os, "access", lambda *_args: False)
    assert not has_temporary_room(database, {})
