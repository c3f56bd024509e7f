"""Turns the drivers' errors into the exporter's, one line each."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from exporter.errors import DatabaseError, PoisonPollError


@contextmanager
def translated_errors(path: Path | None) -> Iterator[None]:
    """Turn the drivers' errors into `DatabaseError`, one line each.

    Args:
        path: SQLite's file, which its errors do not name; None on Postgres, whose errors name the
            server.

    Raises:
        PoisonPollError: for values that it can never hold.
        DatabaseError: for any other error of SQLAlchemy or the driver below it.
    """
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise PoisonPollError(_one_line(error.orig or error, path)) from error
    except DBAPIError as error:
        raise DatabaseError(_one_line(error.orig or error, path)) from error
    except sqlite3.Error as error:  # of a pragma, which passes by SQLAlchemy
        raise DatabaseError(_one_line(error, path)) from error
    except SQLAlchemyError as error:
        raise DatabaseError(_one_line(error, path)) from error


def _one_line(error: BaseException, path: Path | None) -> str:
    """The first line of an error's text, which holds neither SQL nor parameters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where = "database" if path is None else f"database {path}"
    hint = _WAITED_IN_VAIN if getattr(error, "sqlstate", None) in _TIMEOUTS else ""
    return f"{where}: {lines[0].strip()[:300]}{hint}"


# What Postgres says once it has waited for a lock, or worked on a statement, for long enough.
_TIMEOUTS = ("55P03", "57014")
_WAITED_IN_VAIN = (
    "; another session holds a lock (pg_stat_activity and pg_locks tell which), or the server is"
    " very slow: try again once it is free"
)
