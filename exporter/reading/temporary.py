"""Find out whether SQLite can sort in a temporary file, so that memory does not grow with it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def has_temporary_room(database: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether SQLite's temporary files have room for as much as a database holds.

    Without room, as in a container whose file systems are all read-only, SQLite must sort in
    memory.

    Args:
        database: the file.
        environment: where SQLite looks for the names of directories.
    """
    for directory in _directories(environment):
        # SQLite takes the first that it may write to, and no other if that one is full.
        if directory.is_dir() and os.access(directory, os.W_OK | os.X_OK):
            try:
                status = os.statvfs(directory)
                return status.f_bavail * status.f_frsize > database.stat().st_size
            except OSError:
                return False
    return False


def _directories(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the directories for temporary files in SQLite's order (https://sqlite.org/tempfiles.html)."""
    for name in ("SQLITE_TMPDIR", "TMPDIR"):
        if environment.get(name):
            yield Path(environment[name])
    yield from map(Path, ("/var/tmp", "/usr/tmp", "/tmp", "."))  # noqa: S108  # SQLite names them
