"""One interface to SQLite and Postgres: connections, transactions, errors of one line each.

Nothing here relies on session state, because a pooler in transaction mode may be in between.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, Executable, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from exporter.database import sqlite, wal
from exporter.database.sqlite_connection import SqliteConnection
from exporter.database.sqlite_file import SqliteFile
from exporter.database.use import Access, Use
from exporter.errors import ConfigurationError
from exporter.installing import install_command
from exporter.permissions import explain_directory, is_missing


class Database:
    """A database to read from and write to.

    Args:
        url: SQLAlchemy's form, `sqlite:///…` or `postgresql+psycopg://…`.
        pool_size: connections that may be open at the same time; Postgres only.

    Raises:
        ConfigurationError: SQLite's directory does not exist, or the URL cannot be understood.
    """

    writes: ClassVar[bool] = True

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url: URL = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine: Engine = (
            self._sqlite_engine() if self.is_sqlite else self._postgres_engine(pool_size)
        )
        self._sqlite = SqliteConnection(self.engine) if self.is_sqlite else None
        # Only a writer reacts to a replaced file; a reader leaves files and logs alone.
        file = (
            SqliteFile(Path(self.url.database or ""), self._sqlite)
            if self._sqlite is not None and self.writes
            else None
        )
        self._access = Access(self.url, write=self.writes, file=file, probe=self._probe)

    @property
    def path(self) -> Path | None:
        """SQLite's file; None on Postgres."""
        return Path(self.url.database or "") if self.is_sqlite else None

    @property
    def generation(self) -> int:
        """How many times another file has replaced SQLite's; 0 on Postgres."""
        return 0 if self._access.file is None else self._access.file.generation

    def require_file(self) -> None:
        """Refuse to go on without a file once the one that was open is gone.

        Raises:
            DatabaseError: there is none.
        """
        if self._access.file is not None:
            self._access.file.require()

    def maintain(self) -> None:
        """Keep SQLite's write-ahead log small; call this between two polls."""
        file = self._access.file
        if self.path is not None and file is not None and file.is_in_place():
            wal.checkpoint(self.path)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Lend a connection; on SQLite, to one thread at a time.

        Raises:
            DatabaseError: the database failed, or another thread has just timed out on it.
        """
        with Use(self._access), self._lent() as connection:
            yield connection

    def _lent(self) -> AbstractContextManager[Connection]:
        return self.engine.connect() if self._sqlite is None else self._sqlite.lend()

    def _probe(self) -> None:
        with Use(self._access, probe=True), self._lent() as connection:
            if not self.is_sqlite:
                _postgres().set_client_timeout(connection)
            # SQLAlchemy no longer begins by itself on a connection on which BEGIN has failed. On
            # SQLite, BEGIN is what tells whether another process still holds the lock.
            with connection.begin():
                connection.execute(text("SELECT 1"))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run one transaction, committed at the end of the block and rolled back on any error.

        On Postgres, each of its statements may take 10 s; `set_statement_timeout` allows more.

        Raises:
            DatabaseError: the database failed, in one line without SQL or parameters.
        """
        with self.connected() as connection, connection.begin():
            if not self.is_sqlite:
                self._begin_on_postgres(connection)
            yield connection

    def execute_one(
        self, statement: Executable, parameters: Mapping[str, Any], *, durable: bool = True
    ) -> tuple[Any, ...] | None:
        """Run one statement in a transaction of its own, on Postgres in one round trip.

        Round trips dominate the time that a small statement takes there.

        Args:
            statement: it returns rows, and has the time-outs of `transaction`. Build it once: its
                compiled text is cached.
            parameters: of the statement.
            durable: whether it must survive a power cut. If not, the commit does not wait for the
                disk; later durable transactions make it durable too.

        Returns:
            Its first row, of texts, integers, booleans and instants; None if it has none.

        Raises:
            DatabaseError: the database failed, in one line without SQL or parameters.
        """
        if self._sqlite is not None:
            return self.execute_together((statement,), parameters, durable=durable)
        from exporter.database import postgres_message  # noqa: PLC0415  # as `_postgres`

        with Use(self._access):
            return postgres_message.execute_one(self.engine, statement, parameters, durable=durable)

    def execute_together(
        self,
        statements: tuple[Executable, ...],
        parameters: Mapping[str, Any],
        *,
        durable: bool = True,
    ) -> tuple[Any, ...] | None:
        """Run several statements in one transaction; SQLite only: on Postgres, one does all.

        Args:
            statements: as for `execute_one`. A name stands for the same value in all of them.
            parameters: of all statements.
            durable: as for `execute_one`.

        Returns:
            The first row of the last statement that returns rows. None if one of these returned
            none: then all is rolled back.

        Raises:
            DatabaseError: the database failed, in one line without SQL or parameters.
        """
        assert self._sqlite is not None  # noqa: S101  # on Postgres, one statement does all
        with Use(self._access):
            return self._sqlite.execute(statements, parameters, durable=durable)

    def _begin_on_postgres(self, connection: Connection) -> None:
        _postgres().begin(connection)

    def enable_wal(self) -> None:
        """Switch SQLite to write-ahead logging, so that readers and the writer do not block.

        Only for a file with our schema: the setting stays in the file.

        Raises:
            DatabaseError: the database failed.
        """
        if self.is_sqlite:
            with self.connected() as connection:
                sqlite.enable_wal(connection)

    def close(self) -> None:
        """Close all connections."""
        self._access.breaker.close()
        if self._access.file is not None:
            self._access.file.close()
        elif self._sqlite is not None:
            self._sqlite.close()
        else:
            self.engine.dispose()

    def _sqlite_engine(self) -> Engine:
        path = Path(self.url.database or "")
        # Any other fault shows when the file is opened, and polls then wait in the spool.
        with suppress(OSError):
            if is_missing(path.parent) or not path.parent.is_dir():
                reason = explain_directory(path.parent, write=False)
                raise ConfigurationError(f"database.url: {reason}")
        return sqlite.make_engine(self.url)

    def _postgres_engine(self, pool_size: int) -> Engine:
        try:
            engine: Engine = _postgres().make_engine(self.url, pool_size)
        except ArgumentError as error:
            raise ConfigurationError(f"database.url: {error}") from error
        return engine


def _postgres() -> ModuleType:
    """Return the module for Postgres, which needs an extra.

    Raises:
        ConfigurationError: it is not installed, or does not work here.
    """
    try:
        from exporter.database import postgres  # noqa: PLC0415  # psycopg is an extra's
    except ImportError as error:
        # The driver names each library that it misses on a line of its own.
        what = str(error).splitlines()[0] if str(error) else "it cannot be imported"
        raise ConfigurationError(
            f"database.url: the Postgres driver psycopg does not work here, {what}:"
            f" {install_command('postgres')}, which brings libpq along"
        ) from error
    return postgres


def set_statement_timeout(
    connection: Connection, *, rows: int = 0, seconds: float | None = None
) -> None:
    """Limit how long each statement may take, until the transaction ends.

    Without a limit, Postgres would wait without end for a lock, a slow disk or a hung server; and
    others would wait for this process if it stops while it holds the account's row. The time-outs
    of `Database.transaction` suit few rows.

    Args:
        connection: in a transaction.
        rows: how many rows the statements may write, which extends the limit.
        seconds: the limit without them; that of a poll if None.
    """
    # SQLite needs no limit: it waits only for its lock, and never long.
    if connection.dialect.name != "sqlite":
        _postgres().set_statement_timeout(connection, rows=rows, seconds=seconds)
