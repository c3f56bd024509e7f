"""`check` finds the database errors that a poll would run into, and leaves no rows behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from exporter.config.load import load
from exporter.database.database import Database
from exporter.demo.exchange import Exchange
from exporter.doctor.database import check_database
from exporter.history.migrate import current_revision, migrate

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

Administrator = psycopg.Connection[Any]


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def administrator(postgres_url: str) -> Iterator[Administrator]:
    """Yield the superuser's session in the test's database, with a role `lee` without rights."""
    libpq = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(text_of(libpq), autocommit=True) as connection:
        connection.execute("CREATE ROLE lee LOGIN")
        yield connection
        connection.execute("DROP OWNED BY lee CASCADE")
        connection.execute("DROP ROLE lee")


@pytest.fixture
def lee(postgres_url: str) -> URL:
    """Return the database's URL for the role `lee`."""
    return make_url(postgres_url).set(username="lee")


def checked(write_config: "WriteConfig", url: URL) -> tuple[int, str]:
    """Return the exit code and the text of the finding about a database."""
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=text_of(url))
    (found,) = check_database(load(config))
    return int(found.exit_code), found.text


def grant_all(administrator: Administrator) -> None:
    administrator.execute("GRANT USAGE, CREATE ON SCHEMA public TO lee")


def migrated(administrator: Administrator, lee: URL) -> None:
    """Create the tables as `lee`."""
    grant_all(administrator)
    with closing(Database(text_of(lee))) as database:
        migrate(database)


def _no_rights(_administrator: Administrator, _lee: URL) -> None:
    pass


def _no_update(administrator: Administrator, lee: URL) -> None:
    migrated(administrator, lee)
    administrator.execute("ALTER TABLE accounts OWNER TO CURRENT_USER")
    administrator.execute("GRANT SELECT, INSERT ON accounts TO lee")


def _no_sequence(administrator: Administrator, lee: URL) -> None:
    migrated(administrator, lee)
    administrator.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM lee")


def _no_column(administrator: Administrator, lee: URL) -> None:
    migrated(administrator, lee)
    administrator.execute("ALTER TABLE polls RENAME COLUMN attempts TO tries")


def _no_table(administrator: Administrator, lee: URL) -> None:
    migrated(administrator, lee)
    administrator.execute("DROP TABLE gap_outcomes")


def _no_view(administrator: Administrator, lee: URL) -> None:
    migrated(administrator, lee)
    administrator.execute("DROP VIEW coverage_gaps CASCADE")


def _table_of_another_program(administrator: Administrator, _lee: URL) -> None:
    grant_all(administrator)
    administrator.execute("CREATE TABLE polls (question text)")


def _old_schema_of_another_owner(administrator: Administrator, lee: URL) -> None:
    grant_all(administrator)
    with closing(Database(text_of(lee))) as database:
        migrate(database, to="0007")
    administrator.execute("ALTER TABLE polls OWNER TO CURRENT_USER")
    administrator.execute("GRANT ALL ON polls TO lee")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_no_rights, "GRANT USAGE, CREATE ON SCHEMA public TO lee"),
        (_no_update, "GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO lee"),
        (_no_sequence, "TO lee"),
        (_no_column, 'column "attempts"'),
        (_no_table, 'relation "gap_outcomes" does not exist'),
        (_no_view, 'relation "coverage_gaps" does not exist'),
        (_table_of_another_program, "tables of another program's, polls"),
        (_old_schema_of_another_owner, "polls belongs to postgres"),
    ],
)
def test_faults_that_a_poll_would_run_into_are_found(
    administrator: Administrator,
    lee: URL,
    write_config: "WriteConfig",
    fault: Callable[[Administrator, URL], None],
    said: str,
) -> None:
    fault(administrator, lee)
    code, text = checked(write_config, lee)
    assert said in text
    assert code == 78


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nonesuch"}, "CREATE DATABASE nonesuch"),
        ({"username": "nonesuch"}, "CREATE ROLE nonesuch LOGIN"),
        ({"pgbouncer": "true"}, "the exporter works behind PgBouncer as it is"),
        ({"schema": "x"}, "?options=-csearch_path%3DSCHEMA"),
        ({"ssl": "true"}, "?sslmode=require"),
        ({"sslmode": "on"}, "verify-full"),
        ({"options": "-c search_path=absent"}, "search_path is absent, and no schema in it"),
        ({"options": "-c search_path="}, "search_path is empty, and no schema in it"),
        ({"row_factory": "dict_row"}, "remove it from database.url"),
        ({"context": "x"}, "remove it from database.url"),
        ({"options": "-c bogus=1"}, 'unrecognized configuration parameter "bogus"'),
        ({"connect_timeout": "soon"}, "correct database.url"),
    ],
)
def test_a_wrong_url_is_found_with_its_remedy(
    postgres_url: str, write_config: "WriteConfig", change: dict[str, str], said: str
) -> None:
    url = make_url(postgres_url)
    named = {key: value for key, value in change.items() if key in {"database", "username"}}
    url = url.set(**named) if named else url.update_query_dict(change)  # type: ignore[arg-type]  # the dictionary holds two of its parameters
    code, text = checked(write_config, url)
    assert said in text
    assert code == 78


def test_a_check_leaves_no_tables_or_rows(
    administrator: Administrator, lee: URL, write_config: "WriteConfig"
) -> None:
    grant_all(administrator)
    tables = "SELECT COUNT(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert checked(write_config, lee)[0] == 0
    assert administrator.execute(tables).fetchone() == (0,)
    with closing(Database(text_of(lee))) as database:
        migrate(database)
    assert checked(write_config, lee)[0] == 0
    for table in ("accounts", "polls", "order_group_snapshots", "coverage", "gap_outcomes"):
        assert administrator.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)


def test_a_separate_schema_works_beside_another_programs_tables(
    administrator: Administrator,
    postgres_url: str,
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
) -> None:
    administrator.execute("CREATE TABLE alembic_version (version_num varchar(32))")
    administrator.execute("INSERT INTO alembic_version VALUES ('6f1c0a2b9d11')")
    administrator.execute("CREATE TABLE polls (question text)")
    administrator.execute("CREATE VIEW coverage_gaps AS SELECT 1 AS mine")
    administrator.execute("CREATE SCHEMA kalshi")
    query = {"options": "-c search_path=kalshi,public"}
    url = text_of(make_url(postgres_url).update_query_dict(query))
    config = write_config(database_url=url, poll={"interval": "60s"})
    exchange.groups(key_pair.key_id).create("a")
    for command in (["check"], ["run-once"], ["check"], ["run-once"], ["status"]):
        done = run_cli("--config", config, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert administrator.execute("SELECT COUNT(*) FROM kalshi.polls").fetchone() == (2,)
    assert administrator.execute("SELECT COUNT(*) FROM public.polls").fetchone() == (0,)
    with closing(Database(url)) as database:
        assert current_revision(database) is not None
    # The other program's schema, without one of our own, is still refused.
    code, text = checked(write_config, make_url(postgres_url))
    assert code == 78
    assert "another program's" in text


def test_polls_wait_in_the_spool_until_a_missing_right_is_granted(
    administrator: Administrator,
    lee: URL,
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
) -> None:
    migrated(administrator, lee)
    administrator.execute("ALTER TABLE polls OWNER TO CURRENT_USER")
    config = write_config(database_url=text_of(lee), poll={"interval": "60s"})
    exchange.groups(key_pair.key_id).create("a")
    for _ in range(2):
        done = run_cli("--config", config, "--log-level", "ERROR", "run-once")
        assert done.returncode == 78, done.stderr
        (line,) = done.stderr.splitlines()
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON polls TO lee; the poll waits" in line
        assert line.endswith("in the spool until it is mended")
    administrator.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON polls TO lee")
    administrator.execute("GRANT USAGE ON SEQUENCE polls_id_seq TO lee")
    assert run_cli("--config", config, "run-once").returncode == 0
    assert administrator.execute("SELECT COUNT(*) FROM polls").fetchone() == (3,)


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("sqlite:///dir", 78, "dir is a directory: name a file in it"),
        ("sqlite:///fifo", 78, "fifo is not a regular file"),
        ("sqlite:///loop", 78, "Too many levels of symbolic links"),
        ("sqlite:///loop/x.db", 78, "Too many levels of symbolic links"),
        ("sqlite:///file/x.db", 78, "file is not a directory"),
        ("sqlite:////dev/null", 78, "/dev/null is not a regular file"),
        ("sqlite:///zeros", 78, "not a SQLite database"),
        ("postgresql://u@127.0.0.1:1/db?port=abc", 78, "database.url: Received non-integer port"),
        ("postgresql://u@127.0.0.1:1/db?hostaddr=foo", 78, "could not parse network address"),
        ("postgresql://u@127.0.0.1:1/db?service=none", 78, "correct the service"),
        ("postgresql://u@127.0.0.1:1/db?keepalives=foo", 78, "invalid integer value"),
        ("postgresql:///db?host=127.0.0.1&host=::1&port=1&port=2", 78, "multihost"),
        ("postgresql://u@127.0.0.1:1/db", 74, "onnection refused"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(
    write_config: "WriteConfig", tmp_path: Path, url: str, code: int, said: str
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zeros").write_bytes(bytes(5000))
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=url)
    (found,) = check_database(load(config))
    assert said in found.text
    assert int(found.exit_code) == code
    assert "\n" not in found.text
