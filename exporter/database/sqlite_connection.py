"""The one connection that a process has to a SQLite file."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Connection, Engine, Executable, event
from sqlalchemy.engine import ExceptionContext

from exporter.database.prepared import execute_prepared, prepare


class SqliteConnection:
    """A connection that is opened when it is first needed, and then kept.

    SQLite admits one writer at a time, so a process needs no pool. Not thread-safe: only the thread
    that holds `Database`'s turn may use it.

    Args:
        engine: opens it, with transactions that begin by "BEGIN IMMEDIATE".
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        event.listen(engine, "handle_error", _keep_connection)
        self._connection: Connection | None = None
        self._driver: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    def open(self) -> sqlite3.Connection:
        """Open the file unless it is open, and return the driver's connection.

        Raises:
            DBAPIError: SQLAlchemy's.
        """
        if self._driver is None:
            self._connection = self._engine.connect()
            self._driver = sqlite_driver(self._connection)
        return self._driver

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend SQLAlchemy's connection; what the block leaves open is rolled back.

        Raises:
            DBAPIError: SQLAlchemy's.
        """
        driver = self.open()
        connection = cast("Connection", self._connection)
        try:
            yield connection
        finally:
            try:
                connection.rollback()
            finally:
                self._end_transaction(driver)

    def execute(
        self, statements: tuple[Executable, ...], parameters: Mapping[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Run statements in one transaction, as `Database.execute_together` says.

        Raises:
            DBAPIError: SQLAlchemy's, when the file is opened.
            sqlite3.Error: the driver's; nothing is written.
        """
        driver = self.open()
        prepared = prepare(statements, self._engine.dialect)
        try:
            if not durable:
                driver.execute("PRAGMA synchronous=NORMAL")
            if len(statements) == 1:  # a statement is a transaction by itself
                return execute_prepared(driver, prepared, parameters)
            driver.execute("BEGIN IMMEDIATE")
            row = execute_prepared(driver, prepared, parameters)
            driver.execute("ROLLBACK" if row is None else "COMMIT")
        finally:
            self._end_transaction(driver, durable=durable)
        return row

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._driver = None
        self._engine.dispose()

    def _end_transaction(self, driver: sqlite3.Connection, *, durable: bool = True) -> None:
        """Roll back a transaction that an error has left open, and make the next one durable.

        Args:
            driver: the connection.
            durable: whether the last one was.
        """
        try:
            if driver.in_transaction:
                driver.rollback()
            if not durable:
                driver.execute("PRAGMA synchronous=FULL")
        except BaseException:
            self.close()  # the next use opens the file again, as it should be
            raise


def _keep_connection(context: ExceptionContext) -> None:
    """Keep a connection on which a signal has interrupted a statement; SQLAlchemy calls this.

    By default, SQLAlchemy drops it without a rollback, and the lock stays for as long as the
    exception is being handled. A file cannot be lost as a server can: rolling back is enough.
    """
    context.is_disconnect = False


def sqlite_driver(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection of one to SQLite."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)
