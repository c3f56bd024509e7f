"""Partitions a database's tables by account, as docs/scaling.md describes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psycopg
from sqlalchemy import Connection, Engine, event, make_url

from exporter.database import postgres_message
from tests.support.recipes import ROOT

COUNT = 8  # partitions of each table


def libpq_url(url: str) -> str:
    """Return SQLAlchemy's URL of a Postgres database in the form that libpq takes."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def script() -> bytes:
    """Return the contents of docs/recipes/partitions.sql."""
    return (ROOT / "docs" / "recipes" / "partitions.sql").read_bytes()


def partition(url: str) -> None:
    """Split a database's tables into partitions."""
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute(script())


@dataclass(frozen=True)
class Planned:
    """A statement, and the partitions that its plan touches.

    Attributes:
        statement: the SQL.
        partitions: the numbers of the partitions, by table.
        writes: whether the statement changes rows.
    """

    statement: str
    partitions: Mapping[str, frozenset[int]]
    writes: bool

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the partitions, of all tables together."""
        return frozenset[int]().union(*self.partitions.values())


@contextmanager
def recorded_plans() -> Iterator[list[Planned]]:
    """Yield a list that collects the plan of each statement that is sent during the block.

    Each statement is planned before it runs. One that only reads is also executed for its plan,
    because Postgres prunes some partitions only at run time.
    """
    seen: list[Planned] = []

    def explain(cursor: Any, statement: str, parameters: Any) -> None:
        if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement):
            return
        writes = re.search(r"\b(INSERT INTO|UPDATE|DELETE FROM)\b", statement) is not None
        how = "FORMAT JSON" if writes else "FORMAT JSON, ANALYZE"
        cursor.execute(f"EXPLAIN ({how}) {statement}", parameters)
        ((plans,),) = cursor.fetchall()
        seen.append(Planned(statement, _partitions(plans[0]["Plan"]), writes))

    def before(
        connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        driver: Any = connection.connection.driver_connection
        if isinstance(driver, psycopg.Connection):
            with driver.cursor() as cursor:
                explain(cursor, statement, parameters)

    execute_one = postgres_message.execute_one

    def execute_one_explained(engine: Engine, statement: Any, parameters: Any, **kw: Any) -> Any:
        query: Any = statement.compile(dialect=engine.dialect)
        with closing(engine.raw_connection()) as pooled:
            driver: Any = pooled.driver_connection
            with psycopg.ClientCursor(driver) as cursor:
                explain(cursor, str(query), query.construct_params(parameters))
        return execute_one(engine, statement, parameters, **kw)

    event.listen(Engine, "before_cursor_execute", before)
    try:
        # `execute_one` bypasses SQLAlchemy, and therefore its events.
        with patch.object(postgres_message, "execute_one", execute_one_explained):
            yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", before)


def _partitions(plan: Mapping[str, Any]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    waiting = [plan]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        name = re.fullmatch(r"(\w+)_(\d)", node.get("Relation Name", ""))
        if name is not None and node.get("Actual Loops", 1):
            found[name[1]] = found.get(name[1], frozenset()) | {int(name[2])}
    return found
