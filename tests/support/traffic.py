"""Counts the statements that are sent to databases, and the rows that databases report written."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy import Connection, Engine, Executable, event

from exporter.database import postgres_message, prepared


class Sent(NamedTuple):
    """A statement that was sent, with placeholders for its parameters."""

    engine: Engine
    statement: str


@contextmanager
def recorded_statements() -> Iterator[list[Sent]]:
    """Yield a list that collects the statements sent to any database during the block."""
    sent: list[Sent] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
        sent.append(Sent(connection.engine, statement))

    execute_one, compiled = postgres_message.execute_one, postgres_message.compiled

    def note_execute_one(
        connection: Connection, statement: Executable, *args: Any, **kw: Any
    ) -> Any:
        sent.append(Sent(connection.engine, str(compiled(statement, connection.dialect))))
        return execute_one(connection, statement, *args, **kw)

    execute_on_sqlite = prepared.execute_on_sqlite

    def note_execute_on_sqlite(
        connection: Connection, statement: Executable, parameters: Mapping[str, Any]
    ) -> Any:
        query = prepared.compiled(statement, connection.dialect)
        sent.append(Sent(connection.engine, query.text))
        return execute_on_sqlite(connection, statement, parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        # Both bypass SQLAlchemy, and therefore its events.
        with (
            patch.object(postgres_message, "execute_one", note_execute_one),
            patch.object(prepared, "execute_on_sqlite", note_execute_on_sqlite),
        ):
            yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def rows_written(engine: Engine) -> int:
    """Return how many rows were written so far.

    On SQLite these are the rows written through the one connection in the engine's pool.
    """
    # The query uses the driver directly, so that `recorded_statements` does not count it.
    with closing(engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            return driver.total_changes
        driver.execute("SELECT pg_stat_force_next_flush()")
        ((rows,),) = driver.execute(
            "SELECT SUM(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
        )
        return int(rows)
