"""Every table, view and column is described in both databases and in the documentation."""

import json
import re
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from exporter.database.database import Database
from exporter.history import dictionary
from exporter.history.dictionary import lines
from exporter.history.dictionary_views import VIEWS
from exporter.history.migrate import migrate
from exporter.history.schema import metadata
from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroup, OrderGroupEvent, StreamBatch

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = {"alembic_version"}


def test_every_column_is_described(recorder: Any) -> None:
    with recorder.database.transaction() as connection:
        there = inspect(connection)
        names = set(there.get_table_names()) | set(there.get_view_names())
        assert names - OTHERS == set(dictionary.OBJECTS)
        for name in dictionary.OBJECTS:
            itself, *columns = lines(name)
            assert itself.meaning.startswith("View:") == (name in there.get_view_names())
            found = [column["name"] for column in there.get_columns(name)]
            assert sorted(line.column for line in columns) == sorted(found), name
            assert all(line.meaning and line.source for line in columns)


def test_nullability_matches_the_schema() -> None:
    for table in metadata.tables.values():
        _itself, *columns = lines(table.name)
        assert {line.column: line.nullable for line in columns} == {
            column.name: column.nullable for column in table.columns
        }


def test_columns_described_as_never_null_are_not_null_in_views(recorder: Any) -> None:
    recorder.ok(0, [OrderGroup("a", True), OrderGroup("b", True)])
    recorder.ok(60, [OrderGroup("a", False)])
    recorder.ok(120, [OrderGroup("a", False)])
    recorder.ok(600, [OrderGroup("a", False)])
    recorder.ok(660, [OrderGroup("a", True)])
    write = StreamStore(recorder.database).write
    for seconds in (0, 600):
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        event = OrderGroupEvent(order_group_id="c", event_type="triggered", received_at=at)
        write(
            StreamBatch(account="main", own_groups_only=False, since=at, until=at, events=(event,))
        )
    with recorder.database.transaction() as connection:
        for name in set(dictionary.OBJECTS) - set(metadata.tables):
            rows = connection.execute(text(f"SELECT * FROM {name}")).mappings().all()
            assert rows
            for line in lines(name):
                if line.column and not line.nullable:
                    assert all(row[line.column] is not None for row in rows), line


def test_the_table_data_dictionary_holds_the_descriptions(recorder: Any) -> None:
    with recorder.database.transaction() as connection:
        rows = connection.execute(text("SELECT * FROM data_dictionary")).mappings().all()
    described = [line for name in dictionary.OBJECTS for line in lines(name)]
    assert {(row["object_name"], row["column_name"]): row["meaning"] for row in rows} == {
        (line.object, line.column): line.meaning for line in described
    }
    assert {(row["object_name"], row["column_name"]) for row in rows if row["nullable"]} == {
        (line.object, line.column) for line in described if line.nullable
    }


def test_an_upgrade_updates_the_descriptions(database_url: str) -> None:
    database = Database(database_url)
    migrate(database, to="0003")
    migrate(database)
    with database.transaction() as connection:
        count = connection.execute(text("SELECT COUNT(*) FROM data_dictionary")).scalar_one()
    database.close()
    assert count == sum(1 for name in dictionary.OBJECTS for _ in lines(name))


def test_postgres_has_the_comments(postgres_url: str) -> None:
    database = Database(postgres_url)
    migrate(database)
    with database.transaction() as connection:
        comments = connection.execute(
            text(
                "SELECT c.relname, COALESCE(a.attname, ''), d.description FROM pg_description d"
                " JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass"
                " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid"
                " AND d.objsubid > 0 WHERE c.relnamespace = 'public'::regnamespace"
            )
        ).all()
    database.close()
    described = [line for name in dictionary.OBJECTS for line in lines(name)]
    assert {(name, column): comment for name, column, comment in comments} == {
        (line.object, line.column): line.comment for line in described
    }


@pytest.mark.parametrize("name", ["data-dictionary.md", "datasette-metadata.json"])
def test_the_documentation_is_up_to_date(name: str) -> None:
    made = runpy.run_path(str(DOCS / "make_data_dictionary.py"))["MADE"]
    assert (DOCS / name).read_text("utf-8") == made[name](), "run docs/make_data_dictionary.py"


def test_datasettes_metadata_covers_the_views_and_tables() -> None:
    described = json.loads((DOCS / "datasette-metadata.json").read_text("utf-8"))
    assert set(described["databases"]["order_groups"]["tables"]) == set(dictionary.OBJECTS)


def test_the_readme_names_every_view() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    table = readme.partition("| view | one row for each |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(VIEWS)
