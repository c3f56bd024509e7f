"""Test that no setting of a server, database, role or environment changes what is recorded."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import make_url

from exporter.demo.exchange import Exchange
from tests.reliability.conftest import Link, run_pooler

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

_SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "250ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "100ms",
}
# Postgres has this timeout since version 17.
_NEWER_SETTINGS = {"transaction_timeout": "250ms"}
_PLAIN = "-c DateStyle=ISO -c TimeZone=UTC -c standard_conforming_strings=on"


@pytest.fixture
def administrator(postgres_server: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a superuser's connection, which the test's settings do not affect."""
    own = "-c default_transaction_read_only=off -c lock_timeout=0 -c statement_timeout=0"
    with psycopg.connect(postgres_server, autocommit=True, options=own) as connection:
        yield connection


@pytest.fixture
def role(administrator: psycopg.Connection[Any], postgres_url: str) -> Iterator[str]:
    """Yield the database's URL for a role that owns it but is no superuser."""
    url = make_url(postgres_url)
    administrator.execute("CREATE ROLE kalshi LOGIN")
    administrator.execute(f"ALTER DATABASE {url.database} OWNER TO kalshi")
    yield url.set(username="kalshi").render_as_string(hide_password=False)
    administrator.execute(f"DROP DATABASE {url.database} WITH (FORCE)")
    administrator.execute("DROP ROLE kalshi")
    administrator.execute(f"CREATE DATABASE {url.database}")  # its own fixture drops it


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, administrator: psycopg.Connection[Any], role: str
) -> Iterator[dict[str, str]]:
    """Change all settings at one level, and yield the environment variables to run with."""
    level: str = request.param
    if level == "environment":
        yield {"PGDATESTYLE": "German", "PGTZ": "America/St_Johns"}
        return
    settings = dict(_SETTINGS)
    if administrator.info.server_version >= 170000:
        settings |= _NEWER_SETTINGS
    target = {
        "server": "SYSTEM",
        "database": f"DATABASE {make_url(role).database}",
        "role": "ROLE kalshi",
    }[level]
    for name, value in settings.items():
        administrator.execute(f"ALTER {target} SET {name} = '{value}'")
    administrator.execute("SELECT pg_reload_conf()")
    yield {}
    if level == "server":
        administrator.execute("ALTER SYSTEM RESET ALL")
        administrator.execute("ALTER SYSTEM SET fsync = off")  # the server's fixture sets this
        administrator.execute("SELECT pg_reload_conf()")


def errors_logged(administrator: psycopg.Connection[Any]) -> list[str]:
    """Return the errors that the server has logged so far."""
    (directory,) = administrator.execute("SHOW data_directory").fetchone() or ("",)
    log = (Path(directory) / "log").read_text("utf-8", "replace")
    return [line for line in log.splitlines() if "ERROR:" in line or "FATAL:" in line]


@pytest.mark.parametrize(
    ("environment", "route"),
    [
        ("server", "direct"),
        ("database", "pooler"),
        ("role", "direct"),
        ("role", "pooler"),
        ("environment", "direct"),
        ("environment", "pooler"),
    ],
    indirect=["environment"],
)
def test_foreign_settings_change_nothing(
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    administrator: psycopg.Connection[Any],
    role: str,
    environment: dict[str, str],
    route: str,
) -> None:
    groups = exchange.groups(key_pair.key_id)
    groups.replace({"id": f"g{n}", "is_auto_cancel_enabled": False} for n in range(300))
    before = errors_logged(administrator)
    with ExitStack() as stack:
        url = role
        if route == "pooler":
            port = stack.enter_context(run_pooler(role))
            link = stack.enter_context(closing(Link(role, server=("127.0.0.1", port))))
            url = link.url
        config = write_config(database_url=url, poll={"interval": "60s"})

        def run(*arguments: str) -> str:
            done = run_cli("--config", config, *arguments, env=environment)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run("run-once")
        groups.create("back\\slash's", contracts_limit="2.50")
        run("run-once")
        groups.delete("g0")
        run("run-once")
        run("check")
        status = json.loads(run("status", "--json"))
        history = run("export", "history", "--format", "jsonl")
        run("export", "changes")
        run("report")
        run("prune", "--older-than", "1d")
    states = [json.loads(line) for line in history.splitlines()]
    assert len(states) == 301
    assert {state["valid_from"][-1] for state in states} == {"Z"}
    # This session overrides the changed settings.
    libpq = make_url(role).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(libpq, options=_PLAIN) as reader:
        found = reader.execute(
            "SELECT order_group_id, valid_from, duration_seconds FROM order_group_history"
            " WHERE valid_to IS NOT NULL OR order_group_id LIKE 'back%'"
        ).fetchall()
    exported = {
        state["order_group_id"]: (datetime.fromisoformat(state["valid_from"])) for state in states
    }
    assert found
    assert {name: at for name, at, _ in found}.items() <= exported.items()
    assert status
    assert errors_logged(administrator) == before
