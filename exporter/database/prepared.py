"""Statements that are built once and run on SQLite's driver itself.

SQLAlchemy takes about 50 µs to execute a statement and as long to lend a connection and begin, and
SQLite takes 5 µs to run a small statement. A poll that saw nothing new is two transactions of five
statements. SQLAlchemy still builds the statements, and its types still convert each value.
"""

import sqlite3
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy import ClauseElement, Dialect, Executable
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.sql.compiler import SQLCompiler

_Convert = Callable[[Any], Any] | None


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Statements as the driver takes them.

    Attributes:
        texts: each with its parameters by name, and whether it returns rows.
        parameters: the name of each, its default, and what converts the value.
        columns: what converts each column of the last statement that returns rows.
    """

    texts: list[tuple[str, bool]]
    parameters: list[tuple[str, Any, _Convert]]
    columns: list[_Convert]


def execute_prepared(
    driver: sqlite3.Connection, prepared: Prepared, parameters: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """Run statements in their order, until one that returns rows has none.

    Args:
        driver: a connection in a transaction.
        prepared: the statements; a name stands for the same value in all of them.
        parameters: of the statements; others are ignored.

    Returns:
        The first row of the last statement that returns rows. None if one of these returned none:
        the statements after it were not run.

    Raises:
        sqlite3.Error: the driver's.
    """
    values = {
        name: parameters.get(name, default)
        if convert is None
        else convert(parameters.get(name, default))
        for name, default, convert in prepared.parameters
    }
    row: tuple[Any, ...] = ()
    for text, returns_rows in prepared.texts:
        # All rows are read, because a statement that is not at its end would hold up the commit.
        rows = driver.execute(text, values).fetchall()
        if returns_rows:
            if not rows:
                return None
            row = rows[0]
    return tuple(
        [
            value if convert is None else convert(value)
            for value, convert in zip(row, prepared.columns, strict=True)
        ]
    )


@cache
def prepare(statements: tuple[Executable, ...], dialect: Dialect) -> Prepared:
    """Return statements as SQLite's driver takes them, cached: compiling takes long."""

    def to_driver(kind: TypeEngine[Any]) -> _Convert:
        return kind.dialect_impl(dialect).bind_processor(dialect)

    def from_driver(kind: TypeEngine[Any]) -> _Convert:
        return kind.dialect_impl(dialect).result_processor(dialect, None)

    by_name = cast("type[DefaultDialect]", type(dialect))(paramstyle="named")
    texts: list[tuple[str, bool]] = []
    parameters: dict[str, tuple[str, Any, _Convert]] = {}
    columns: list[_Convert] = []
    for statement in statements:
        query = cast("SQLCompiler", cast("ClauseElement", statement).compile(dialect=by_name))
        for name, default in query.params.items():
            parameters[name] = (name, default, to_driver(query.binds[name].type))
        returned = list(getattr(statement, "exported_columns", ()))
        if returned:
            columns = [from_driver(column.type) for column in returned]
        texts.append((str(query), bool(returned)))
    return Prepared(texts=texts, parameters=list(parameters.values()), columns=columns)
