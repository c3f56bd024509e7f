"""Run one statement on Postgres in one message, which is one round trip and one transaction.

This bypasses SQLAlchemy, which would take a tenth of a small poll's time.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName
from sqlalchemy import ClauseElement, Dialect, Engine, Executable
from sqlalchemy.engine import Compiled
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


class _Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A statement as a session prepares it.

    Attributes:
        name: derived from the text.
        prepare: the statement PREPARE.
        execute: the statement EXECUTE, with a place for each parameter.
        parameters: the name and the default of each place.
    """

    name: str
    prepare: str
    execute: str
    parameters: list[tuple[str, Any]]


class _Session:
    """One connection's session: its settings, and the statements that it has prepared.

    Planning a small statement takes the server six times as long as running it, and its settings as
    long again. A session of this process's own keeps both. A pooler in transaction mode may lend
    another session each time: behind one, each message brings its settings, and nothing is
    prepared.

    Args:
        driver: the connection.
        dialect: SQLAlchemy's.
    """

    def __init__(self, driver: BoundedConnection, dialect: Dialect) -> None:
        self._driver = driver
        self._dialect = dialect
        # A message of several statements has no parameters, so a client-side cursor writes them
        # into the text. The server commits the transaction at the message's end.
        self._cursor = psycopg.ClientCursor(driver)
        self._cursor.adapters.register_loader("timestamptz", _InstantLoader)
        self._settings = f"SET TRANSACTION {_ISOLATION}; {_settings(driver, 'LOCAL')}; "
        self._is_own: bool | None = None  # None until it matters
        self._seen: set[str] = set()
        self._prepared: set[str] = set()

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Execute a statement, and return its first row if it has one."""
        self._driver.timeout = postgres.POLL_SECONDS
        commit = "" if durable else "SET LOCAL synchronous_commit = off; "
        prepared = _prepared(statement, self._dialect)
        if not self._execute_prepared(commit, prepared, parameters):
            query = compiled(statement, self._dialect)
            self._cursor.execute(
                f"{self._settings}{commit}{query}", query.construct_params(parameters)
            )
        # The settings have results of their own.
        row = self._cursor.set_result(-1).fetchone()
        return None if row is None else tuple([_in_utc(value) for value in row])

    def _execute_prepared(
        self, commit: str, prepared: _Prepared, parameters: Mapping[str, Any]
    ) -> bool:
        """Execute a statement by its prepared form.

        Args:
            commit: how to commit: what to send before the statement, in the same message.
            prepared: the statement.
            parameters: of the statement.

        Returns:
            Whether it was executed. If not, nothing was: the statement came for the first time, and
            may come never again, or the session has not prepared it.
        """
        if prepared.name not in self._seen:
            self._seen.add(prepared.name)
            return False
        if self._is_own is None:
            self._is_own = self._has_own_session()
        if not self._is_own:
            return False
        message = f"{commit}{prepared.execute}"
        if prepared.name not in self._prepared:
            message = f"{self._settings}{prepared.prepare}; {message}"
        values = [parameters.get(name, default) for name, default in prepared.parameters]
        try:
            self._cursor.execute(message, values)
        except (InvalidSqlStatementName, DuplicatePreparedStatement):
            self._is_own = False
            return False
        self._prepared.add(prepared.name)
        return True

    def _has_own_session(self) -> bool:
        """Return whether no pooler is in between: one names another process.

        If so, the session keeps the settings from now on.
        """
        (process,) = self._cursor.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        if process != self._driver.info.backend_pid:
            return False
        self._cursor.execute(
            f"SET SESSION CHARACTERISTICS AS TRANSACTION {_ISOLATION};"
            f" {_settings(self._driver, 'SESSION')}"
        )
        return True


_ISOLATION = "ISOLATION LEVEL READ COMMITTED, READ WRITE"


def _settings(driver: BoundedConnection, scope: Literal["LOCAL", "SESSION"]) -> str:
    return f"{postgres.settings(driver, scope)}; {postgres.poll_timeout(scope)}"


@cache
def _prepared(statement: Executable, dialect: Dialect) -> _Prepared:
    numbered = cast("type[DefaultDialect]", type(dialect))(paramstyle="numeric_dollar")
    query = cast("SQLCompiler", cast("ClauseElement", statement).compile(dialect=numbered))
    names = query.positiontup or []
    defaults = query.params
    text = str(query)
    name = f"kalshi_exporter_{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    places = ", ".join(["%s"] * len(names))
    return _Prepared(
        name=name,
        prepare=f"PREPARE {name} AS {text.replace('%', '%%')}",
        execute=f"EXECUTE {name} ({places})" if names else f"EXECUTE {name}",
        parameters=[(each, defaults[each]) for each in names],
    )


@cache
def compiled(statement: Executable, dialect: Dialect) -> Compiled:
    """Return a statement's text, cached: compiling takes longer than Postgres takes to run it."""
    query: Compiled = cast("ClauseElement", statement).compile(dialect=dialect)
    return query


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
