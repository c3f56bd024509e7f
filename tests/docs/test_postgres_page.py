"""The SQL of docs/postgres.md sets up a database that the exporter can record to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.recipes import recipe

if TYPE_CHECKING:
    from exporter.demo.exchange import Exchange
    from tests.conftest import RunCli, WriteConfig

ROLE = "kalshi_exporter"


@contextmanager
def administrator(url: str) -> Iterator[psycopg.Connection]:
    """Yield a connection as the server's superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def run(connection: psycopg.Connection, kind: str) -> None:
    """Run a block of the page."""
    for statement in filter(str.strip, recipe("postgres.md", f"sql {kind}").split(";")):
        connection.execute(statement)


@pytest.fixture
def server(postgres_server: str) -> Iterator[str]:
    """Yield a server without what the page creates, and remove that again at the end."""
    yield postgres_server
    with administrator(postgres_server) as connection:
        connection.execute("DROP DATABASE IF EXISTS kalshi WITH (FORCE)")
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone():
            connection.execute(f"DROP OWNED BY {ROLE} CASCADE")
            connection.execute(f"DROP ROLE {ROLE}")


def as_exporter(url: str, database: str) -> str:
    """Return the exporter's URL of a database on the server."""
    parts = make_url(url.replace("postgresql://", "postgresql+psycopg://"))
    return parts.set(username=ROLE, password=None, database=database).render_as_string()


def test_a_separate_role_and_database(
    server: str, exchange: "Exchange", write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    with administrator(server) as connection:
        run(connection, "create")
    write_config(
        database_url=as_exporter(server, "kalshi"),
        base_url=exchange.base_url,
        poll={"interval": "60s"},
    )
    for command in ("run-once", "check", "status"):
        done = run_cli(command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_schema_in_another_programs_database(
    server: str, exchange: "Exchange", write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    with administrator(server) as connection:
        connection.execute("CREATE DATABASE kalshi")
    with administrator(make_url(server).set(database="kalshi").render_as_string(False)) as shared:
        # The other program has a table with the name of one of ours.
        shared.execute("CREATE TABLE public.polls (id int)")
        run(shared, "schema")
        run(shared, "grant")
    write_config(
        database_url=as_exporter(server, "kalshi"),
        base_url=exchange.base_url,
        poll={"interval": "60s"},
    )
    for command in ("run-once", "check", "status"):
        done = run_cli(command)
        assert done.returncode == 0, done.stdout + done.stderr
    with administrator(make_url(server).set(database="kalshi").render_as_string(False)) as shared:
        assert shared.execute("SELECT count(*) FROM kalshi.polls").fetchone() == (1,)
        assert shared.execute("SELECT count(*) FROM public.polls").fetchone() == (0,)
