"""Detect that an open SQLite file has been deleted, moved, replaced or overwritten.

SQLite goes on writing into a file that has lost its name, and keeps its write-ahead log by name
beside whatever file has that name now. Nobody would notice until the process ends, and then the
log of one database would be applied to another.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from exporter.database.sqlite_connection import SqliteConnection
from exporter.errors import DatabaseError

_HEADER = 100  # bytes of a database file's header
# These parts of the -shm file, SQLite's walindex, say how much of the log is in the database.
_SALTS = slice(32, 40)
_BACKFILLED, _ATTEMPTED = slice(96, 100), slice(128, 132)
_INDEX = 132

_Key = tuple[int, int]
"""A file's device and inode."""


class SqliteFile:
    """The file behind a path, as this process has it open.

    Not thread-safe: only the thread that holds `Database`'s turn may use it.

    Args:
        path: of the database; a link is followed.
        connection: what opens it.

    Attributes:
        generation: how many times another file, or none, has taken the file's place.
    """

    def __init__(self, path: Path, connection: SqliteConnection) -> None:
        self.generation = 0
        self._path = path
        self._connection = connection
        self._key: _Key | None = None  # None while nothing is open
        # Each poll compares these paths, and plain texts cost it a third of what `Path`s do.
        self._name = os.fspath(path)
        self._real = self._name  # where links led when it was opened: SQLite keeps the log there
        self._directory = os.fspath(path.parent)
        self._home: _Key | None = None  # the directory, when the file was opened
        self._companions: dict[str, _Key] = {}  # the -wal and the -shm that belong to the file
        self._seen: tuple[bytes, bytes] | None = None  # header, and state of the log
        self._descriptors: dict[_Key, int] = {}  # SQLite's own

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the file that is open, if one is."""
        if self._key is None:
            return True
        if _key_of(self._name, os.lstat) == self._key and _key_of(self._directory) == self._home:
            return True  # it is not a link: only links have to be followed, by ten system calls
        return _key_of(self._name) == self._key and os.path.realpath(self._name) == self._real

    def require(self) -> None:
        """Refuse to go on without a file once the one that was open is gone.

        Raises:
            DatabaseError: there is none, or an empty one.
        """
        if not self.generation:
            return
        try:
            if self._path.stat().st_size:
                return
        except OSError:
            pass
        raise DatabaseError(self._gone())

    def open(self) -> None:
        """Open the file, or check that the one that is open is still the database.

        Raises:
            DatabaseError: the open file is no longer the database, and is closed. The next call
                opens whatever file is there by then.
            DBAPIError: SQLAlchemy's: it cannot be opened.
        """
        if self._key is not None:
            self._check()
            if self._connection.is_open:
                return
        self.require()
        before = _key_of(self._name)
        self._connection.open()
        if before is None or _key_of(self._name) != before:
            self._connection.close()
            raise DatabaseError(f"database {self._path}: the file was moved while it was opened")
        self._key = before
        self._real = os.path.realpath(self._name)
        self._home = _key_of(self._directory)
        self._companions.clear()
        self._descriptors.clear()
        self._seen = None

    def _check(self) -> None:
        if self._is_untouched():
            return
        if not self.is_in_place():
            self._save_log()
            self._let_go()
            if _key_of(self._name) is None:
                raise DatabaseError(self._gone())
            raise DatabaseError(
                f"database {self._path}: another file has taken the place of the one that was in"
                " use; the next poll uses the new file"
            )
        if not self._connection.is_open:
            return  # an error has closed it
        if self._lost("-wal"):
            self._save_log()
            self._let_go()
            raise DatabaseError(
                f"database {self._path}: its write-ahead log, {Path(self._real).name}-wal, was"
                " deleted or moved while it was in use; the next poll opens the database again"
            )
        if self._lost("-shm"):
            self._companions.clear()  # the log may be in use, with another index, by others
            self._let_go()
            raise DatabaseError(
                f"database {self._path}: the index of its log, {Path(self._real).name}-shm, was"
                " deleted or moved while it was in use; the next poll opens the database again"
            )
        if self._was_overwritten():
            # The log belongs to the former content, and must never be applied to the new one.
            log = f"{self._real}-wal"
            if _key_of(log) == self._companions.get(log):
                with suppress(OSError):
                    os.truncate(log, 0)
            self._let_go()
            raise DatabaseError(
                f"database {self._path}: the file was overwritten while it was in use; the next"
                " poll uses its new content"
            )

    def _is_untouched(self) -> bool:
        """Return whether all is as it was, with as few system calls as possible.

        Each poll asks twice. A descriptor may have become another file's: then it shows other
        content, and the full checks decide.
        """
        log, index, key = f"{self._real}-wal", f"{self._real}-shm", self._key
        if key is None or self._seen is None:
            return False
        try:
            found = (
                os.lstat(self._name),
                os.stat(self._directory),  # noqa: PTH116  # as above
                os.stat(log),  # noqa: PTH116
                os.stat(index),  # noqa: PTH116
            )
            expected = [key, self._home, self._companions[log], self._companions[index]]
            if [(status.st_dev, status.st_ino) for status in found] != expected:
                return False
            # The log's state is read first. Otherwise a checkpoint between the two would pair the
            # old header with the new state, and the next check would take the new header for
            # somebody else's.
            shared = os.pread(self._descriptors[self._companions[index]], _INDEX, 0)
            header = os.pread(self._descriptors[key], _HEADER, 0)
        except (OSError, KeyError):
            return False
        if header != self._seen[0] or len(shared) < _INDEX:
            return False
        self._seen = (header, _state_of(shared))
        return True

    def close(self) -> None:
        """Close the file, so that no log of it is left beside another file."""
        if self._key is not None:
            with suppress(DatabaseError):
                self._check()
        self._connection.close()
        self._key = None

    def used(self) -> None:
        """Note the files that belong to the database, once a connection has used it."""
        if self._key is not None and not self._companions:
            for path in (f"{self._real}-wal", f"{self._real}-shm"):
                if (key := _key_of(path)) is not None:
                    self._companions[path] = key

    def _gone(self) -> str:
        return (
            f"database {self._path}: the file is gone: it was deleted or moved while it was in"
            " use; put a database there, or let `kalshi-exporter migrate` make a new one"
        )

    def _save_log(self) -> None:
        """Move the write-ahead log into the file that it belongs to, whatever its name is now.

        When SQLite closes a file that has lost its name, it does not do so itself.
        """
        if not self._connection.is_open:
            return  # it would open the file that has the name now
        with suppress(sqlite3.Error):
            self._connection.open().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _let_go(self) -> None:
        self._connection.close()
        # SQLite would take any that remain for the next file's.
        for path, key in self._companions.items():
            if _key_of(path) == key:
                with suppress(OSError):
                    Path(path).unlink()
        self._key = None
        self.generation += 1

    def _lost(self, suffix: str) -> bool:
        """Return whether the -wal or -shm that SQLite has open has lost its name.

        Whoever opened the database now would get one of their own beside it.
        """
        path = f"{self._real}{suffix}"
        key = self._companions.get(path)
        return key is not None and _key_of(path) != key and self._descriptor(key) is not None

    def _was_overwritten(self) -> bool:
        """Return whether somebody but SQLite has written into the file.

        SQLite writes into it only when it checkpoints, and records that in the -shm file. Both
        files are read through SQLite's own descriptors, because closing any other descriptor of
        a file would release all locks on it.
        """
        if self._key is None:
            return False
        index = self._companions.get(f"{self._real}-shm")
        if index is None:
            return False
        shared = self._read(index, _INDEX)  # before the header, as in `_is_untouched`
        header = self._read(self._key, _HEADER)
        if header is None or shared is None or len(shared) < _INDEX:
            return False
        log = _state_of(shared)
        before, self._seen = self._seen, (header, log)
        if before is None or before[0] == header:
            return False
        # While the log is being moved, the file changes before the log's state does.
        return before[1] == log and shared[_BACKFILLED] == shared[_ATTEMPTED]

    def _read(self, key: _Key, size: int) -> bytes | None:
        """Read the beginning of a file that SQLite has open; None if it cannot be found."""
        descriptor = self._descriptor(key)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, size, 0)
        except OSError:
            return None

    def _descriptor(self, key: _Key) -> int | None:
        """Return the descriptor of a file that SQLite has open; None if there is none."""
        descriptor = self._descriptors.get(key)
        if descriptor is None or _key_of_descriptor(descriptor) != key:
            found = (each for each in _open_descriptors() if _key_of_descriptor(each) == key)
            descriptor = next(found, None)
            if descriptor is None:
                return None
            self._descriptors[key] = descriptor
        return descriptor


def _state_of(shared: bytes) -> bytes:
    """Return the part of the -shm file that says how much of the log is in the database."""
    return shared[_SALTS] + shared[_BACKFILLED] + shared[_ATTEMPTED]


def _key_of(
    path: str,
    look: Callable[[str], os.stat_result] = os.stat,  # as above
) -> _Key | None:
    try:
        status = look(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_descriptors() -> list[int]:
    try:
        return [int(path.name) for path in Path("/dev/fd").iterdir()]
    except OSError:
        return []


def _key_of_descriptor(descriptor: int) -> _Key | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
