"""Run one statement on Postgres in one message, which is one round trip and one transaction.

This bypasses SQLAlchemy, which would take a tenth of a small poll's time.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName
from sqlalchemy import ClauseElement, Connection, Dialect, Executable
from sqlalchemy.engine import Compiled

from exporter.database import postgres

if TYPE_CHECKING:
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.sql.compiler import SQLCompiler

_SESSION = "session"


def execute_one(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any], *, durable: bool
) -> tuple[Any, ...] | None:
    """Do for Postgres what `Database.execute_one` says.

    Parameters and values pass unchanged, without SQLAlchemy's types; instants come back in UTC.

    Raises:
        DBAPIError: SQLAlchemy's, as from its own statements.
    """
    postgres.set_client_timeout(connection)
    settings = (
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;"
        f" {postgres.settings(connection)}; {postgres.poll_timeout()}"
    )
    if not durable:
        settings += "; SET LOCAL synchronous_commit = off"
    prepared = _prepared(statement, connection.dialect)
    session = connection.info.setdefault(_SESSION, _Session())
    # A message of several statements has no parameters, so a client-side cursor writes them into
    # the text. The server commits the transaction at the message's end.
    with (
        postgres.sqlalchemy_errors(connection, prepared.prepare),
        psycopg.ClientCursor(postgres.driver(connection)) as cursor,
    ):
        cursor.adapters.register_loader("timestamptz", _InstantLoader)
        if not session.execute(cursor, settings, prepared, parameters):
            query = compiled(statement, connection.dialect)
            cursor.execute(f"{settings}; {query}", query.construct_params(parameters))
        while cursor.nextset():
            pass  # the settings have results of their own
        row = cursor.fetchone()
    return None if row is None else tuple(_in_utc(value) for value in row)


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
    """The prepared statements of one connection's session.

    Planning a small statement takes the server six times as long as running it. Nothing relies on
    a prepared statement, because a pooler in transaction mode may lend another session each time:
    behind a pooler none is used.
    """

    def __init__(self) -> None:
        self._is_own: bool | None = None  # None until it matters
        self._seen: set[str] = set()
        self._prepared: set[str] = set()

    def execute(
        self,
        cursor: psycopg.ClientCursor[Any],
        settings: str,
        prepared: _Prepared,
        parameters: Mapping[str, Any],
    ) -> bool:
        """Execute a statement by its prepared form.

        Args:
            cursor: of the connection.
            settings: statements to send before it, in the same message.
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
            self._is_own = _has_own_session(cursor)
        if not self._is_own:
            return False
        message = prepared.execute
        if prepared.name not in self._prepared:
            message = f"{prepared.prepare}; {message}"
        values = [parameters.get(name, default) for name, default in prepared.parameters]
        try:
            cursor.execute(f"{settings}; {message}", values)
        except (InvalidSqlStatementName, DuplicatePreparedStatement):
            self._is_own = False
            return False
        self._prepared.add(prepared.name)
        return True


def _has_own_session(cursor: psycopg.ClientCursor[Any]) -> bool:
    """Return whether no pooler is in between: one names another process."""
    (process,) = cursor.execute("SELECT pg_backend_pid()").fetchone() or (None,)
    return bool(process == cursor.connection.info.backend_pid)


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
