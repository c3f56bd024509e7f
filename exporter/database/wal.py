"""Keeps SQLite's journal small though somebody reads at all times.

Each commit moves what the journal holds into the file, but only as far as the oldest reader of that
moment has seen, which is never all of it if there is always one; and only a journal of which all is
in the file is begun anew. Between two commits readers change, and those that come once all is in
the file no longer hold the journal.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

LARGE = 16 * 2**20
"""Bytes. SQLite's own measure, after each commit, is a fourth of it."""


def checkpoint(path: Path) -> None:
    """Move what the journal of a SQLite file holds into it, if it is large and readers allow.

    Waits for nobody, and lets neither a reader nor a writer wait. What fails is tried again soon.

    Args:
        path: the database, which has been written to.
    """
    with suppress(OSError, sqlite3.Error):
        if path.with_name(f"{path.name}-wal").stat().st_size < LARGE:
            return
        address = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
