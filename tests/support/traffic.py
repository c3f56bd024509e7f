"""Counts the statements that are sent to databases, and the rows that databases report written."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy import Connection, Dialect, Engine, event

from exporter.database import postgres_message, prepared, sqlite_connection
from exporter.database.prepared import Prepared

Source = Engine | sqlite3.Connection
"""What identifies a database here: on SQLite the driver's connection, elsewhere the engine."""


class Sent(NamedTuple):
    """A statement that was sent, with placeholders for its parameters."""

    source: Source
    statement: str


@contextmanager
def recorded_statements() -> Iterator[list[Sent]]:
    """Yield a list that collects the statements sent to any database during the block."""
    sent: list[Sent] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
        sent.append(Sent(source_of(connection), statement))

    execute_one = postgres_message.execute_one

    def note_execute_one(engine: Engine, statement: Any, *args: Any, **kw: Any) -> Any:
        sent.append(Sent(engine, _text(statement, engine.dialect)))
        return execute_one(engine, statement, *args, **kw)

    execute_prepared = prepared.execute_prepared

    def note_execute_prepared(
        driver: sqlite3.Connection, statements: Prepared, parameters: Mapping[str, Any]
    ) -> Any:
        sent.extend(Sent(driver, text) for text, _ in statements.texts)
        return execute_prepared(driver, statements, parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        # Both bypass SQLAlchemy, and therefore its events.
        with (
            patch.object(postgres_message, "execute_one", note_execute_one),
            patch.object(sqlite_connection, "execute_prepared", note_execute_prepared),
        ):
            yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@cache
def _text(statement: Any, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))


def source_of(connection: Connection) -> Source:
    """Return what identifies the database of a connection."""
    if connection.dialect.name == "sqlite":
        return sqlite_connection.sqlite_driver(connection)
    return connection.engine


def rows_written(source: Source) -> int:
    """Return how many rows were written so far; on SQLite, through this connection."""
    if isinstance(source, sqlite3.Connection):
        return source.total_changes
    # The query uses the driver directly, so that `recorded_statements` does not count it.
    with closing(source.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        driver.execute("SELECT pg_stat_force_next_flush()")
        ((rows,),) = driver.execute(
            "SELECT SUM(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
        )
        return int(rows)
