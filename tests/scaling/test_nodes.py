"""Test on one server what a database of several nodes, such as Citus, requires of the exporter.

Each statement goes to the node of its account. Each node has its own clock, and takes ids from its
own block, so that a later poll may have a smaller id.
"""

import re
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect, text

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.store import Store
from tests.history.conftest import History
from tests.history.test_model import Exporters
from tests.history.test_statements import go_through_polls
from tests.scaling.test_model import run
from tests.scaling.test_partitions import go_through_events
from tests.support.recipes import recipe
from tests.support.traffic import recorded_statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# These depend on the server: a node would refuse them in a write, or return another value.
_OF_THE_SERVER = re.compile(
    r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|random|gen_random_uuid|"
    r"pg_advisory\w*)\s*\(|\bCURRENT_(TIMESTAMP|TIME|DATE|USER)\b|\bLOCALTIME",
    re.IGNORECASE,
)


@pytest.fixture
def history(postgres_url: str) -> "Iterator[History]":
    """Yield a history of one account in an ordinary database."""
    with closing(Database(postgres_url)) as database:
        migrate(database)
        yield History(database, Store(database, owner="first"))


def test_no_statement_uses_the_servers_clock_or_random_numbers(history: History) -> None:
    with recorded_statements() as sent:
        go_through_polls(history)
        go_through_events(history)
    assert len(sent) > 100
    assert [each.statement for each in sent if _OF_THE_SERVER.search(each.statement)] == []


def test_the_schema_has_no_active_objects(history: History) -> None:
    """The schema has no triggers, rules or foreign keys, and only one sequence."""
    with history.database.transaction() as connection:
        found = {
            what: connection.execute(text(query)).scalars().all()
            for what, query in {
                "triggers": "SELECT tgname FROM pg_trigger",
                "rules": "SELECT rulename FROM pg_rules WHERE schemaname = 'public'",
                "references": "SELECT conname FROM pg_constraint WHERE contype = 'f'",
                "sequences": "SELECT sequencename FROM pg_sequences",
                "defaults": "SELECT column_default FROM information_schema.columns"
                " WHERE table_schema = 'public' AND column_default IS NOT NULL",
            }.items()
        }
    assert found == {
        "triggers": [],
        "rules": [],
        "references": [],
        "sequences": ["polls_id_seq"],
        "defaults": ["nextval('polls_id_seq'::regclass)"],
    }


def test_the_order_of_ids_means_nothing(history: History) -> None:
    with history.database.transaction() as connection:
        # Descending ids are worse than the blocks of several nodes.
        connection.execute(
            text("ALTER SEQUENCE polls_id_seq INCREMENT -1 MINVALUE -1000000 START -1 RESTART -1")
        )
    run(Exporters, history=history)


def test_citus_distributes_each_table_by_a_column_of_its_keys(history: History) -> None:
    statements = recipe("scaling.md", "sql citus")
    distributed = re.findall(r"create_distributed_table\('(\w+)', 'account'", statements)
    copied = re.findall(r"create_reference_table\('(\w+)'\)", statements)
    with history.database.transaction() as connection:
        found = inspect(connection)
        tables = {
            name: {column["name"] for column in found.get_columns(name)}
            for name in found.get_table_names()
        }
        keys: dict[str, list[Sequence[str | None]]] = {
            name: [
                found.get_pk_constraint(name)["constrained_columns"],
                *(each["column_names"] for each in found.get_indexes(name) if each["unique"]),
            ]
            for name in tables
        }
    assert sorted(distributed) == sorted(name for name in tables if "account" in tables[name])
    assert sorted(copied) == sorted(tables.keys() - {*distributed})
    for name in distributed:
        assert all(key[0] == "account" for key in keys[name]), name
