"""Turn the drivers' errors into the exporter's: each is one line that says what to do.

The most important distinction is whether waiting helps. A server that restarts comes back by
itself; a missing permission does not, so the message names the remedy.
"""

import re
import sqlite3
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from exporter.database.remedies import remedy_of_connection, remedy_of_statement
from exporter.errors import (
    DatabaseDamagedError,
    DatabaseError,
    DatabaseSetupError,
    PoisonPollError,
)
from exporter.permissions import explain_directory, explain_file, is_full, is_missing


def translated(
    error: SQLAlchemyError | sqlite3.Error, url: URL, *, write: bool = True
) -> DatabaseError:
    """Return an error of SQLAlchemy, or of the driver below it, as the exporter's own.

    Args:
        error: a pragma, for example, raises sqlite3's, without SQLAlchemy.
        url: of the database.
        write: whether the connection writes; a reader needs fewer rights.

    Returns:
        A `PoisonPollError` for values that the database can never hold, a `DatabaseSetupError` for
        what a person must mend, a `DatabaseDamagedError` for damage, or a `DatabaseError`.
    """
    if not isinstance(error, (DBAPIError, sqlite3.Error)):
        return DatabaseError(f"database: {_first_line(error)}")
    driver_error = (error.orig or error) if isinstance(error, DBAPIError) else error
    if url.get_backend_name() == "sqlite":
        return _sqlite_error(driver_error, Path(url.database or ""), write=write)
    poison = isinstance(error, (DataError, IntegrityError))
    return _postgres_error(driver_error, url, write=write, poison=poison)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text, which holds neither SQL nor parameters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:300]


def _sqlite_error(error: BaseException, path: Path, *, write: bool) -> DatabaseError:
    said = _first_line(error)
    line = f"database {path}: {said}"
    if isinstance(error, (sqlite3.DataError, sqlite3.IntegrityError)):
        return PoisonPollError(line)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_CORRUPT:
        return DatabaseDamagedError(
            f"database {path} is damaged ({said}): stop the exporter, keep a copy of the file, and"
            " restore a backup, or recover what is left with sqlite3's .recover"
        )
    if primary == sqlite3.SQLITE_NOTADB:
        return DatabaseSetupError(
            f"database.url: {path} is a file, but not a SQLite database, or its beginning is"
            " damaged: correct the path, or restore a backup"
        )
    if primary == sqlite3.SQLITE_ERROR and re.search(
        "no such (table|column)|no column named", said
    ):
        return DatabaseSetupError(
            f"{line}: somebody has dropped or renamed it: restore a backup, or put it back"
        )
    if primary in _ABOUT_FILES and code != sqlite3.SQLITE_READONLY_DBMOVED:
        return _sqlite_file_error(path, line, write=write)
    return DatabaseError(f"{line}: make room there" if primary == sqlite3.SQLITE_FULL else line)


def _sqlite_file_error(path: Path, line: str, *, write: bool) -> DatabaseError:
    try:
        missing = is_missing(path)
    except OSError:
        missing = False
    reason = explain_sqlite_file(path, write=write)
    if missing:
        return DatabaseError(
            f"database: {reason or path}; it was moved or deleted: put it back, restore a backup,"
            " or run `kalshi-exporter migrate` to begin a new one"
        )
    if reason is not None:
        return DatabaseSetupError(f"database: {reason}")
    # If a full disk leaves no room for its index, SQLite reports an I/O error.
    return DatabaseError(f"{line}: the disk is full: make room there" if is_full(path) else line)


_ABOUT_FILES = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def explain_sqlite_file(path: Path, *, write: bool) -> str | None:
    """Return why SQLite cannot use a file, and what to do; None if nothing is found.

    SQLite keeps its log and index beside the file, so a writer needs the directory too.
    """
    reason = explain_file(path, write=write)
    if reason is not None:
        return reason
    for suffix in ("-wal", "-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        with suppress(OSError):
            if not is_missing(beside) and (reason := explain_file(beside, write=write)):
                return reason
    return explain_directory(path.parent, write=write)


def _postgres_error(error: BaseException, url: URL, *, write: bool, poison: bool) -> DatabaseError:
    said = _first_line(error)
    state = getattr(error, "sqlstate", None)
    line = f"database: {said}"
    # A missing partition is not the poll's fault: the same poll succeeds once somebody adds it.
    if poison and "no partition of relation" not in said:
        return PoisonPollError(line)
    if state is None:
        remedy = remedy_of_connection(said, url)
        # The driver raises ProgrammingError for a wrong address, before it connects.
        if remedy is None and type(error).__name__ == "ProgrammingError":
            remedy = "correct database.url"
        return DatabaseError(line) if remedy is None else DatabaseSetupError(f"{line}: {remedy}")
    if state in {"XX001", "XX002", "58P01"}:
        return DatabaseDamagedError(
            f"{line}: the server's files are damaged: restore a backup, or repair them"
        )
    if state[:2] in _SETUP_CLASSES or state in _SETUP_STATES:
        return DatabaseSetupError(f"{line}: {remedy_of_statement(said, state, url, write=write)}")
    return DatabaseError(f"{line}{_HINTS.get(state, '')}")


# Syntax or access rule, catalog name, schema name, authorization: none of them ends by itself.
_SETUP_CLASSES = {"42", "3D", "3F", "28"}
# A parameter's value, an object in the wrong state, no partition for a row.
_SETUP_STATES = {"22023", "55000", "23514"}

_TIMED_OUT = (
    "; another session holds a lock (pg_stat_activity and pg_locks tell which), or the server is"
    " very slow: try again once it is free"
)
_HINTS = {
    "53100": "; make room on the server's disk",
    "53300": "; close other connections, or raise max_connections",
    "55P03": _TIMED_OUT,  # it has waited for a lock for long enough
    "57014": _TIMED_OUT,  # it has worked on a statement for long enough
    "25006": "; the server is a read-only standby",
}
