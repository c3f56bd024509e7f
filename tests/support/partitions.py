"""A database whose tables are partitioned by account, as docs/scaling.md says."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psycopg
from sqlalchemy import Connection, Engine, Executable, event, make_url

from exporter.database import postgres
from tests.support.recipes import ROOT

COUNT = 8


def libpq_url(url: str) -> str:
    """SQLAlchemy's URL of a Postgres database, as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def script() -> bytes:
    """Return docs/recipes/partitions.sql."""
    return (ROOT / "docs" / "recipes" / "partitions.sql").read_bytes()


def partition(url: str) -> None:
    """Split a database's tables into partitions."""
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute(script())


@dataclass(frozen=True)
class Planned:
    """A statement, and the partitions that Postgres would look into for it.

    Attributes:
        partitions: of each table, their numbers.
        writes: whether it changes rows.
    """

    statement: str
    partitions: Mapping[str, frozenset[int]]
    writes: bool

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of all tables' partitions."""
        return frozenset[int]().union(*self.partitions.values())


@contextmanager
def planned() -> Iterator[list[Planned]]:
    """Let Postgres plan each statement that is sent meanwhile, before it runs.

    A statement that only reads is also run for its plan: Postgres leaves out partitions as late as
    that, too.
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

    execute_one, compiled = postgres.execute_one, postgres.compiled

    def execute_one_explained(
        connection: Connection, statement: Executable, parameters: Any, **kw: Any
    ) -> Any:
        query = compiled(statement, connection.dialect)
        driver: Any = connection.connection.driver_connection
        with psycopg.ClientCursor(driver) as cursor:
            explain(cursor, str(query), query.construct_params(parameters))
        return execute_one(connection, statement, parameters, **kw)

    event.listen(Engine, "before_cursor_execute", before)
    try:
        # It passes by SQLAlchemy, and so by its events.
        with patch.object(postgres, "execute_one", execute_one_explained):
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
