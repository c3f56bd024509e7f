"""Open the recorded history read-only, as one consistent snapshot.

`export`, `status` and `report` read through this module. It writes nothing, migrates nothing and
creates no file, so a copy of a database in a read-only directory can be read like the original.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event

from exporter.database.database import Database
from exporter.errors import ConfigurationError, DatabaseError, DatabaseSetupError, SchemaError
from exporter.history.migrate import current_revision, refuse_newer
from exporter.history.schema import REVISION
from exporter.permissions import explain_file, is_missing
from exporter.reading.temporary import has_temporary_room

_BUSY_SECONDS = 10.0

# The bytes that SQLite locks in a database file while it is open; part of the file format.
_SHARED_FIRST = 0x40000002
_SHARED_SIZE = 510

_HEADER_SIZE = 20  # bytes at the start of the file; the last two say which journal mode it has
_SMALLEST_INDEX = 32 * 1024  # bytes of a -shm file
_WAL = b"\x02\x02"


@contextmanager
def read_only_transaction(url: str) -> Iterator[Connection]:
    """Open the history as of one instant, the same for every statement in the block.

    Args:
        url: the database, as the configuration names it.

    Raises:
        ConfigurationError: SQLite's file does not exist.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed, or a file that nobody held open changed meanwhile.
    """
    database = ReadOnlyDatabase(url)
    try:
        _require_current(database)
        with database.transaction() as connection:
            yield connection
    finally:
        database.close()


class ReadOnlyDatabase(Database):
    """A database that is only read.

    Args:
        url: SQLAlchemy's form, `sqlite:///…` or `postgresql+psycopg://…`.

    Raises:
        ConfigurationError: SQLite's file does not exist.
        DatabaseError: SQLite's file cannot be looked at.
    """

    writes = False

    def __init__(self, url: str) -> None:
        self._resting_file: _RestingFile | None = None
        super().__init__(url, pool_size=1)

    def _begin_on_postgres(self, connection: Connection) -> None:
        from exporter.database import postgres  # noqa: PLC0415  # an extra's

        postgres.begin_reading(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run one read-only transaction, all of it on one snapshot.

        Raises:
            DatabaseError: the database failed, in one line without SQL or parameters; or the file
                changed while it was read.
        """
        try:
            with super().transaction() as connection:
                yield connection
        except DatabaseError:
            self._refuse_changed()  # then this is the reason
            raise
        self._refuse_changed()

    def close(self) -> None:
        """Close all connections."""
        super().close()
        if self._resting_file is not None:
            self._resting_file.close()

    def _refuse_changed(self) -> None:
        if self._resting_file is not None and self._resting_file.has_changed():
            raise DatabaseError(f"database: {self.path} changed while it was read: try again")

    def _sqlite_engine(self) -> Engine:
        path = Path(self.url.database or "")
        with suppress(OSError):  # `explain_file` says why
            if is_missing(path):
                raise ConfigurationError(
                    f"database.url: {path} does not exist: run `kalshi-exporter run-once` first, or"
                    " correct the path"
                )
        reason = explain_file(path, write=False)
        if reason is not None:
            raise DatabaseSetupError(f"database: {reason}")

        def connect() -> sqlite3.Connection:
            # Not earlier: opening and closing the file again would drop the lock.
            if self._resting_file is None:
                self._resting_file = _at_rest(path)
            options = "mode=ro" if self._resting_file is None else "mode=ro&immutable=1"
            address = f"file:{quote(str(path))}?{options}"
            # The driver's own transaction control would not begin a transaction for a SELECT.
            connection = sqlite3.connect(
                address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None
            )
            # An export of everything is sorted, which takes half as much room as the file itself.
            if not has_temporary_room(path):
                connection.execute("PRAGMA temp_store=MEMORY")
            return connection

        engine = create_engine(self.url, creator=connect, pool_size=1)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN DEFERRED")

        return engine


class _RestingFile:
    """A SQLite file in WAL mode that no process has open, so that its log is empty.

    Even to read it, SQLite would create a -wal and a -shm beside it. It fails where it may not, and
    elsewhere leaves files that belong to the reader and that the exporter may be unable to write.
    Opened as immutable it creates none, but then ignores all locks and logs. This class makes up
    for that: it holds the lock that keeps a short-lived exporter from checkpointing into the file,
    and detects whether a long-lived one has done so.

    Args:
        descriptor: of the locked file; this object closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._state = self._look()

    def has_changed(self) -> bool:
        """Return whether anybody has written into the file since."""
        return self._look() != self._state

    def close(self) -> None:
        """Close the file, which releases the lock."""
        os.close(self._descriptor)

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_mtime_ns, status.st_size


def _at_rest(path: Path) -> _RestingFile | None:
    """Lock a file that has to be read as immutable; None if SQLite can read it normally.

    Raises:
        DatabaseError: the file's log cannot be read here.
    """
    # Checked before the file is opened: closing it again would drop every lock that SQLite holds on
    # it in this process. Where this process has it open, there is a -shm.
    if _is_in_use(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DatabaseError(f"database: cannot read {path}: {error.strerror}") from error
    try:
        # A file on a medium without locks can still be read.
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_SH, _SHARED_SIZE, _SHARED_FIRST)
        try:
            header = os.pread(descriptor, _HEADER_SIZE, 0)
        except OSError as error:
            raise DatabaseError(f"database: cannot read {path}: {error.strerror}") from error
        if header.endswith(_WAL) and not _is_in_use(path):
            resting = _RestingFile(descriptor)
            descriptor = -1
            return resting
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _is_in_use(path: Path) -> bool:
    """Return whether the files beside a database say that a process has it open.

    Raises:
        DatabaseError: there is a log that cannot be read here.
    """
    journal = path.with_name(f"{path.name}-wal")
    index = path.with_name(f"{path.name}-shm")
    # A shorter index was never used: on a full disk, SQLite leaves such a one behind.
    with suppress(FileNotFoundError):
        if index.stat().st_size >= _SMALLEST_INDEX:
            return True
    try:
        if journal.stat().st_size == 0:
            return False
    except FileNotFoundError:
        return False
    effective = os.access in os.supports_effective_ids
    if not os.access(path.parent, os.W_OK, effective_ids=effective):
        raise DatabaseError(
            f"database: the newest rows are in {journal}, which cannot be read here without"
            f" {index.name}: copy that file too, or both to a directory that you can write to"
        )
    return True


def _require_current(database: Database) -> None:
    revision = current_revision(database)
    if revision is None:
        raise SchemaError(
            "nothing is recorded in the database yet: run `kalshi-exporter run-once` first"
        )
    if revision < REVISION:
        raise SchemaError(
            f"the database's schema is at revision {revision}, this version reads {REVISION}:"
            " run `kalshi-exporter migrate`"
        )
    refuse_newer(revision)
