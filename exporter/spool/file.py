"""The spool's SQLite file: durable, private and bounded; threads and processes share it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import SpoolError
from exporter.permissions import is_missing
from exporter.spool.explain import explain

_NAME = "spool.db"
_BUSY_SECONDS = 10.0
_PAGE = 4096  # bytes

# The name `answers` stays although its rows are responses: files of earlier versions have it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    database TEXT NOT NULL, account TEXT NOT NULL, digest TEXT NOT NULL, groups BLOB NOT NULL,
    PRIMARY KEY (database, account, digest)
);
CREATE TABLE IF NOT EXISTS polls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database TEXT NOT NULL, account TEXT NOT NULL, digest TEXT, poll TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS polls_account ON polls (database, account, id);
-- Whether another poll needs a response.
CREATE INDEX IF NOT EXISTS polls_digest ON polls (database, account, digest);
-- Polls that found no room. A row is inserted before it is needed: counting must need no room.
CREATE TABLE IF NOT EXISTS losses (
    database TEXT NOT NULL, account TEXT NOT NULL, polls INTEGER NOT NULL, last_started_at TEXT,
    PRIMARY KEY (database, account)
);
-- Batches of events: see `stream`.
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database TEXT NOT NULL, account TEXT NOT NULL, own_groups_only INTEGER NOT NULL,
    since TEXT, until TEXT NOT NULL, cause TEXT, claimed_until TEXT, events INTEGER NOT NULL,
    packed BLOB
);
CREATE INDEX IF NOT EXISTS batches_account ON batches (database, account, id);
CREATE TABLE IF NOT EXISTS lost_batches (
    database TEXT NOT NULL, account TEXT NOT NULL, own_groups_only INTEGER NOT NULL,
    first TEXT, last TEXT,
    PRIMARY KEY (database, account)
);
"""


class SpoolFile:
    """A file that is created when it is first written to, readable by its owner alone.

    Args:
        directory: where it is; created if need be.
        max_size: bytes that the file may have.

    Attributes:
        path: of the file.
    """

    def __init__(self, directory: Path, max_size: int) -> None:
        self.path = directory / _NAME
        self._max_size = max_size
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def exists(self) -> bool:
        """Return whether there is a file yet.

        Raises:
            SpoolError: it is unknown, because the directory cannot be searched.
        """
        if self._connection is not None:
            return True
        try:
            return not is_missing(self.path)
        except OSError as error:
            raise self._failed(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread at a time; each statement is a transaction.

        Raises:
            SpoolError: the disk failed.
        """
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction, rolled back if the block raises.

        Raises:
            SpoolError: there is no room, or the disk failed.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _failed(self, error: sqlite3.Error | OSError) -> SpoolError:
        return SpoolError(f"spool: {explain(self.path, error) or f'{self.path}: {error}'}")

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # Larger statements would otherwise need a temporary file, for which there may be no
            # place.
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA max_page_count={self._max_size // _PAGE}")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection
