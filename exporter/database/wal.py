"""Keep SQLite's write-ahead log small although somebody reads at all times.

SQLite checkpoints after commits: it copies the log into the database file, but only as far as the
oldest reader has seen. It starts the log over only when all of it has been copied. With a reader at
every commit, that never happens and the log grows. A checkpoint between two commits meets other
readers, and those that begin after everything was copied do not hold the log.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

LARGE = 16 * 2**20
"""Bytes. SQLite checkpoints by itself from a quarter of this size on."""


def checkpoint(path: Path) -> None:
    """Copy a large write-ahead log into its database file, as far as readers allow.

    It neither waits nor makes a reader or a writer wait. If it fails, the next call tries again.

    Args:
        path: the database, which has been written to.
    """
    with suppress(OSError, sqlite3.Error):
        if path.with_name(f"{path.name}-wal").stat().st_size < LARGE:
            return
        address = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
