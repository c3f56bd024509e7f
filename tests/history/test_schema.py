"""The migrations create the tables that the code expects, and those store values exactly."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, inspect, literal, select, text
from sqlalchemy.exc import IntegrityError

from exporter.database.database import Database
from exporter.errors import DatabaseError
from exporter.history import schema
from exporter.history.comments import add_comments
from exporter.history.schema import ExactDecimal, Instant, metadata, to_text

if TYPE_CHECKING:
    from tests.history.conftest import History


def test_the_migrations_create_the_tables_that_the_code_expects(database: Database) -> None:
    add_comments(metadata)
    with database.transaction() as connection:
        options: dict[str, Any] = {"compare_type": True}
        if not database.is_sqlite:  # on Postgres the primary key serves as that index
            options["include_name"] = lambda name, *_: name != "polls_account_started_at"
            options["include_object"] = lambda _, name, *__: name != "polls_account_started_at"
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_the_migrations_create_the_keys_and_indexes_that_the_code_expects(
    database: Database,
) -> None:
    with database.transaction() as connection:
        there = inspect(connection)
        for table in metadata.tables.values():
            key = there.get_pk_constraint(table.name)["constrained_columns"]
            indexes = {
                str(index["name"]): index["column_names"] for index in there.get_indexes(table.name)
            }
            if table is schema.polls and not database.is_sqlite:
                assert (key, indexes) == (["account", "started_at", "id"], {})
                continue
            assert key == [column.name for column in table.primary_key]
            assert indexes == {
                index.name: [column.name for column in index.columns] for index in table.indexes
            }


def test_the_newest_migration_is_the_revision_that_the_code_expects() -> None:
    configuration = Config()
    migrations = Path(__file__).parents[2] / "migrations"
    configuration.set_main_option("script_location", str(migrations))
    assert ScriptDirectory.from_config(configuration).get_heads() == [schema.REVISION]


def test_the_database_allows_one_open_snapshot_of_a_group(history: "History") -> None:
    history.observe(0, history.group("a"))
    [row] = history.rows("order_group_snapshots")
    second = row | {"valid_from": history.at(1)}
    with (
        pytest.raises(DatabaseError) as caught,
        history.database.transaction() as connection,
    ):
        connection.execute(schema.order_group_snapshots.insert(), second)
    assert isinstance(caught.value.__cause__, IntegrityError)


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
        (
            datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))),
            "2025-12-31T23:30:00.000000Z",
        ),
    ],
)
def test_instants_as_text_are_utc_and_of_fixed_width(instant: datetime, expected: str) -> None:
    assert to_text(instant) == expected


@given(*[st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.timezones())] * 2)  # noqa: DTZ001  # Hypothesis adds the zone
def test_instants_as_text_sort_by_time(one: datetime, other: datetime) -> None:
    one, other = one.astimezone(UTC), other.astimezone(UTC)
    assert (to_text(one) < to_text(other)) == (one < other)
    assert datetime.fromisoformat(to_text(one)) == one


_through = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@_through
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2)
    | st.sampled_from([Decimal("0." + "1" * 40), Decimal("9" * 40), Decimal("1E+20")])
)
def test_decimals_are_stored_exactly(empty_database: Database, number: Decimal) -> None:
    with empty_database.transaction() as connection:
        assert connection.execute(select(literal(number, ExactDecimal))).scalar_one() == number


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_instants_are_utc_whatever_the_sessions_time_zone(postgres_url: str, zone: str) -> None:
    instant = datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=UTC)
    database = Database(postgres_url)
    with database.transaction() as connection:
        connection.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
        assert connection.execute(text("SHOW timezone")).scalar_one() == zone
        there = connection.execute(select(bindparam("i", instant, Instant))).scalar_one()
    database.close()
    assert there == instant
    assert there.tzinfo is UTC


def test_json_is_stored_unchanged(history: "History") -> None:
    extra = json.dumps({"nul": "\0", "lone": "\ud800", "emoji": "🦀", "big": 0}, indent=None)
    extra = extra.replace(": 0}", ": 1e400}")
    group = history.group("a", extra=extra)
    history.observe(0, group)

    assert history.row("order_group_snapshots")["extra"] == extra
    assert history.row("order_group_changes")["new_extra"] == extra
    # A new store reads the group from the database, and finds it unchanged.
    again = type(history.store)(history.database, owner="second")
    written = history.write(history.poll(60, group), history.claim(59, store=again), store=again)
    assert written.changed == 0
