"""Run one statement on Postgres in one message, which is one round trip and one transaction.

This bypasses SQLAlchemy, which would take a tenth of a small poll's time.
"""

import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
)
from sqlalchemy import ClauseElement, Dialect, Engine, Executable, UpdateBase, func, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from exporter.database import postgres
from exporter.database.postgres_connection import BoundedConnection

if TYPE_CHECKING:
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.sql.compiler import SQLCompiler

_SESSION = "session"


def execute_one(
    engine: Engine, statement: Executable, parameters: Mapping[str, Any], *, durable: bool
) -> tuple[Any, ...] | None:
    """Do for Postgres what `Database.execute_one` says.

    Parameters and values pass unchanged, without SQLAlchemy's types; instants come back in UTC.

    Raises:
        DBAPIError: SQLAlchemy's, as from its own statements.
    """
    # SQLAlchemy's own connection around the pool's would double the cost of lending it.
    try:
        pooled = engine.raw_connection()
        try:
            return _session(pooled, engine.dialect).execute(statement, parameters, durable=durable)
        except psycopg.Error as error:
            if cast("BoundedConnection", pooled.driver_connection).closed:
                pooled.invalidate(error)
            raise
        finally:
            pooled.close()
    except psycopg.Error as error:
        raise DBAPIError.instance(
            str(statement), None, error, psycopg.Error, dialect=engine.dialect
        ) from error


def _session(pooled: PoolProxiedConnection, dialect: Dialect) -> "_Session":
    session: _Session | None = pooled.info.get(_SESSION)
    if session is None:
        driver = cast("BoundedConnection", pooled.driver_connection)
        session = pooled.info[_SESSION] = _Session(driver, dialect)
    return session


class _Query(msgspec.Struct, frozen=True, kw_only=True):
    """A statement as the driver takes it.

    Attributes:
        text: with a place for each parameter.
        parameters: the name and the default of each place.
    """

    text: str
    parameters: list[tuple[str, Any]]


class _Session:
    """One connection's session: its settings, and the statements that it has prepared.

    Planning a small statement takes the server six times as long as running it, and making the
    settings takes as long again. A session of this process's own keeps both. A pooler in
    transaction mode may lend another session each time: behind one, each message brings its
    settings, and nothing is prepared.

    Args:
        driver: the connection.
        dialect: SQLAlchemy's.
    """

    def __init__(self, driver: BoundedConnection, dialect: Dialect) -> None:
        self._driver = driver
        self._dialect = dialect
        self._cursor = driver.cursor()
        # A message of several statements has no parameters, so a client-side cursor writes them
        # into the text. The server commits the transaction at the message's end.
        self._client = psycopg.ClientCursor(driver)
        self._client.adapters.register_loader("timestamptz", _InstantLoader)
        self._settings = f"SET TRANSACTION {_ISOLATION}; {_settings(driver, 'LOCAL')}; "
        self._is_own: bool | None = None  # None until it matters
        self._seen: set[Executable] = set()

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Execute a statement, and return its first row if it has one."""
        self._driver.timeout = postgres.POLL_SECONDS
        row = self._row_of(statement, parameters, durable=durable)
        return None if row is None else tuple([_in_utc(value) for value in row])

    def _row_of(
        self, statement: Executable, parameters: Mapping[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        # Only what repeats is worth preparing.
        if statement in self._seen and self._keeps_its_state():
            relaxed = not durable and isinstance(statement, UpdateBase)
            query = _query(_relaxed(statement) if relaxed else statement, self._dialect)
            with suppress(*_NOT_PREPARED):
                self._cursor.execute(query.text, _values(query, parameters), prepare=True)
                row = self._cursor.fetchone()
                return row[:-1] if relaxed and row is not None else row
            self._is_own = False  # nothing was executed
        self._seen.add(statement)
        query = _query(statement, self._dialect)
        commit = "" if durable else "SET LOCAL synchronous_commit = off; "
        message = f"{self._settings}{commit}{query.text}"
        self._client.execute(message, _values(query, parameters))
        # The settings have results of their own.
        return self._client.set_result(-1).fetchone()

    def _keeps_its_state(self) -> bool:
        """Return whether no pooler is in between: it would report another process than the server.

        If none is, the session keeps the settings from now on.
        """
        if self._is_own is None:
            (process,) = self._cursor.execute("SELECT pg_backend_pid()").fetchone() or (None,)
            is_own = process == self._driver.info.backend_pid
            if is_own:
                self._driver.prepare_threshold = sys.maxsize  # only what is asked for
                # psycopg numbers its statements. If a pooler should report the server's process
                # after all, the number of another client's statement must not be ours.
                prepared: Any = self._driver._prepared  # noqa: SLF001  # it has no other name
                prepared._prepared_idx = secrets.randbelow(2**60)  # noqa: SLF001  # as above
                self._cursor.execute(
                    f"SET SESSION CHARACTERISTICS AS TRANSACTION {_ISOLATION};"
                    f" {_settings(self._driver, 'SESSION')}"
                )
            self._is_own = is_own  # if the settings failed, the next statement tries again
        return self._is_own


_NOT_PREPARED = (
    # A pooler has lent another session.
    InvalidSqlStatementName,
    DuplicatePreparedStatement,
    # Somebody has changed the type of a column that the statement returns.
    FeatureNotSupported,
)
_ISOLATION = "ISOLATION LEVEL READ COMMITTED, READ WRITE"


def _settings(driver: BoundedConnection, scope: Literal["LOCAL", "SESSION"]) -> str:
    return f"{postgres.settings(driver, scope)}; {postgres.poll_timeout(scope)}"


@cache
def _relaxed(statement: UpdateBase) -> UpdateBase:
    """Return a statement whose commit does not wait for the disk, which its last column sets."""
    return statement.returning(func.set_config("synchronous_commit", "off", true()))


@cache
def _query(statement: Executable, dialect: Dialect) -> _Query:
    positional = cast("type[DefaultDialect]", type(dialect))(paramstyle="format")
    query = cast("SQLCompiler", cast("ClauseElement", statement).compile(dialect=positional))
    defaults = query.params
    return _Query(
        text=str(query),
        parameters=[(each, defaults[each]) for each in query.positiontup or []],
    )


def _values(query: _Query, parameters: Mapping[str, Any]) -> list[Any]:
    return [parameters.get(name, default) for name, default in query.parameters]


class _InstantLoader(Loader):
    """A loader of instants in ISO style, whatever style the session had before the message.

    The driver's own loader refuses any other style, and does not see that the message changes it.
    """

    def load(self, data: Buffer) -> datetime:
        """Return the instant; psycopg calls this."""
        return datetime.fromisoformat(bytes(data).decode())


def _in_utc(value: Any) -> Any:
    """Return an instant in UTC, and any other value as it is."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value
