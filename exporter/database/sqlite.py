"""Connections to a SQLite file that is written to."""

import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from exporter.clock import elapsed
from exporter.database import wal
from exporter.database.sqlite_connection import sqlite_driver

_CACHE = 4 * 2**20  # bytes of pages that a connection keeps in memory
_BUSY_SECONDS = 10.0  # how long SQLite waits for another process that writes


def make_engine(url: URL) -> Engine:
    """Make an engine that opens the file for writing and never creates it."""
    path = Path(url.database or "")

    def connect() -> sqlite3.Connection:
        # mode=rw: only `migrate` creates a database. A missing file is not an empty database.
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=_BUSY_SECONDS,
            # sqlite3's own transaction control would begin late and commit DDL by itself.
            isolation_level=None,
            check_same_thread=False,  # one thread at a time uses it
        )
        # Larger statements would otherwise need a temporary file, for which there may be no place.
        connection.execute("PRAGMA temp_store=MEMORY")
        # Otherwise a poll that changes more than 2 MB of pages writes some of them twice.
        connection.execute(f"PRAGMA cache_size=-{_CACHE // 1024}")
        # Each commit survives a power cut, so no observation is lost.
        connection.execute("PRAGMA synchronous=FULL")
        # A reader that stays for hours makes the write-ahead log grow. This gives the space back.
        connection.execute(f"PRAGMA journal_size_limit={wal.LARGE}")
        return connection

    engine = create_engine(url, creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the lock at the start, so another writer cannot make it fail halfway.
        sqlite_driver(connection).execute("BEGIN IMMEDIATE")

    return engine


def enable_wal(connection: Connection) -> None:
    """Switch the file to write-ahead logging, which stays in the file.

    Raises:
        sqlite3.Error: the file cannot be switched.
    """
    until = elapsed() + _BUSY_SECONDS
    while True:
        try:
            _pragma(connection, "journal_mode=WAL")
        except sqlite3.OperationalError:
            # Another process is switching it too. SQLite does not wait by itself here.
            if elapsed() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _pragma(connection: Connection, setting: str) -> None:
    """Run a pragma on the driver's connection, outside SQLAlchemy's transaction."""
    sqlite_driver(connection).execute(f"PRAGMA {setting}")
