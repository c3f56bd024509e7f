"""Say why the spool cannot be used, and how to mend it."""

import sqlite3
from pathlib import Path

from exporter.permissions import explain_file, explain_place


def explain(path: Path, error: sqlite3.Error | OSError) -> str | None:
    """Return why the spool's file cannot be used, and what to do; None if nothing is found.

    Args:
        path: of the file, which may be missing.
        error: what the system or SQLite said.
    """
    if isinstance(error, OSError):
        return explain_place(path.parent) or explain_file(path, write=True)
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if primary in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return f"{path} is damaged ({error}): move it away, and the next poll begins another"
    if primary in _ABOUT_FILES:
        # SQLite writes a journal beside the file.
        return explain_place(path.parent) or explain_file(path, write=True)
    return None


_ABOUT_FILES = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
