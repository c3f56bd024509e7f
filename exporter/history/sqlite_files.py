"""SQLite's file around a migration: how large it is, created privately, copied before."""

import sqlite3
import stat
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from exporter.database.database import Database
from exporter.errors import DatabaseDamagedError, DatabaseError, DatabaseSetupError
from exporter.permissions import explain_directory, explain_file, is_missing, real_path


def file_size(path: Path) -> int:
    """Return the size of a SQLite file in bytes; 0 if there is none.

    Raises:
        DatabaseSetupError: the file may not be looked at, or is no file.
    """
    try:
        if is_missing(path):
            return 0
        status = path.stat()
    except OSError as error:
        reason = explain_file(path, write=True) or f"{path}: {error.strerror}"
        raise DatabaseSetupError(f"database: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseSetupError(f"database: {explain_file(path, write=True)}")
    return status.st_size


def make_private_file(path: Path | None) -> None:
    """Create SQLite's file, if there is none, readable by its owner alone; its log follows it.

    Raises:
        DatabaseError: it cannot be created.
    """
    if path is None:
        return
    try:
        if is_missing(path):
            path.touch(mode=0o600)
    except OSError as error:
        raise _cannot_create(path, error) from error


def _cannot_create(path: Path, error: OSError | sqlite3.Error) -> DatabaseError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
        return DatabaseDamagedError(
            f"database: cannot create {path}: the database is damaged ({error}): restore a backup"
        )
    reason = explain_directory(real_path(path).parent, write=True)
    if reason is not None:
        return DatabaseSetupError(f"database: cannot create {path}: {reason}")
    said = error.strerror if isinstance(error, OSError) else error
    return DatabaseError(f"database: cannot create {path}: {said}")


def back_up(database: Database, revision: str) -> Path | None:
    """Copy a SQLite database beside itself, as of one instant, while others may use it.

    Returns:
        The path of the copy; None on Postgres.

    Raises:
        DatabaseError: it cannot be copied.
    """
    path = database.path
    if path is None:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup = path.with_name(f"{path.name}.{revision}.{stamp}.backup")
    try:
        backup.touch(mode=0o600, exist_ok=False)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            backup.unlink()
        raise _cannot_create(backup, error) from error
    return backup
