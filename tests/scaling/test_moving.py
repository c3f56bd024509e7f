"""Test docs/recipes/partitions.sql on a new database, an old one, and under running daemons."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from exporter.database.database import Database
from exporter.history.migrate import migrate
from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import witness
from tests.support.daemons import StartDaemon
from tests.support.partitions import COUNT, libpq_url, partition, script

if TYPE_CHECKING:
    from exporter.demo.exchange import Exchange
    from soak.witness import Witness
    from tests.conftest import KeyPair, RunCli, WriteConfig

__all__ = ["witness"]  # pytest finds fixtures by name

_ACCOUNTS_TABLES = """
    SELECT c.relname, c.relkind FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND a.attname = 'account'
      AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
_PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
# Other versions and people rely on these names.
_SCHEMA = """
    SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default,
           col_description(quote_ident(table_name)::regclass, ordinal_position)
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name !~ '_[0-7]$'
"""
_INDEXES = """
    SELECT tablename, indexname, replace(indexdef, ' ONLY ', ' ') FROM pg_indexes
    WHERE schemaname = 'public' AND tablename !~ '_[0-7]$'
"""
_COMMENTS = """
    SELECT relname, obj_description(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
      AND NOT relispartition
"""
# Postgres adds names to some unnamed columns when it stores a view.
_VIEWS = """
    SELECT viewname, replace(definition, '''::text AS text', '''::text')
    FROM pg_views WHERE schemaname = 'public'
"""


def ask(url: str, query: str) -> set[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(libpq_url(url)) as connection:
        return set(connection.execute(query.encode()).fetchall())


def schema_of(url: str) -> dict[str, set[tuple[Any, ...]]]:
    """Return the columns, indexes, comments and views of a database."""
    return {query: ask(url, query) for query in (_SCHEMA, _INDEXES, _COMMENTS, _VIEWS)}


def test_partitioning_keeps_the_schema(
    postgres_url: str, exchange: "Exchange", write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config(database_url=postgres_url, base_url=exchange.base_url, poll={"interval": "60s"})
    assert run_cli("migrate").returncode == 0
    before = schema_of(postgres_url)
    partition(postgres_url)
    assert schema_of(postgres_url) == before
    assert {kind for _, kind in ask(postgres_url, _ACCOUNTS_TABLES)} == {"p"}
    assert (
        len(
            ask(postgres_url, "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        )
        == 9 * COUNT
    )
    # Running the script again changes nothing.
    partition(postgres_url)
    assert schema_of(postgres_url) == before

    for command in (
        ["migrate"], ["run-once"], ["check"], ["status"], ["report"], ["export", "history"],
        ["prune", "--older-than", "1d"],
    ):  # fmt: skip
        done = run_cli(*command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_partitioned_database_is_migrated(postgres_url: str) -> None:
    database = Database(postgres_url)
    migrate(database, to="0008")
    with psycopg.connect(libpq_url(postgres_url)) as connection:
        # Before revision 0011, this key had to be changed first.
        connection.execute(
            "ALTER TABLE polls DROP CONSTRAINT polls_pkey, ADD PRIMARY KEY (account, id)"
        )
    partition(postgres_url)
    migrate(database)
    kinds = dict(ask(postgres_url, _ACCOUNTS_TABLES))
    assert {kinds["polls"], kinds["accounts"], kinds["order_group_snapshots"]} == {"p"}
    # A table that a newer version adds is not partitioned until the script runs again.
    assert kinds["order_group_events"] == "r"
    partition(postgres_url)
    assert {kind for _, kind in ask(postgres_url, _ACCOUNTS_TABLES)} == {"p"}
    database.close()


def test_a_database_moves_into_partitions_under_running_daemons(
    postgres_url: str,
    witness: "Witness",  # the fixture
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=postgres_url, poll={"interval": "300ms"}
    )
    assert run_cli("migrate").returncode == 0
    daemons = []
    for name in ("first", "second"):
        own = tmp_path / name
        own.mkdir()
        daemons.append(start_daemon(Path(shutil.copy(config, own / "config.toml"))))
    first, _ = daemons
    served = witness.served[key_pair.key_id]
    first.wait(lambda: len(served) >= 5, "polls before")

    with psycopg.connect(libpq_url(postgres_url)) as connection:
        connection.execute(script())
        # A large database would take this long to copy.
        time.sleep(2.0)
    during = len(served)
    first.wait(lambda: len(served) >= during + 5, "polls after")
    for daemon in daemons:
        assert daemon.stop() == 0

    recorded = record_of(postgres_url)
    assert broken_promises(recorded) == []
    assert differences(recorded, "main", served, complete=False) == []
    answered = [poll for poll in recorded.polls if poll["outcome"] in {"ok", "superseded"}]
    assert len(answered) == len(served)
    assert {kind for _, kind in ask(postgres_url, _ACCOUNTS_TABLES)} == {"p"}
