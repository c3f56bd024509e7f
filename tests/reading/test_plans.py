"""Test that the queries of docs/queries.md use indexes, on both databases, at any instant."""

import json
import random
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.event import listen, remove

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import (
    accounts,
    coverage,
    order_group_events,
    order_group_snapshots,
    stream_coverage,
    to_text,
)
from exporter.reading.status import status
from exporter.report.tally_sqlite import QUERY, TRIGGERED_BEFORE
from tests.support.recipes import standing_at

GROUPS = 10_000
STATES = 10
START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 365.0

RULE = "valid_from <= {t} AND (valid_to IS NULL OR valid_to > {t})"
INSTANTS = {"recent": DAYS - 1, "middle": DAYS / 2, "old": DAYS / 50}


def at(days: float) -> datetime:
    return START + timedelta(minutes=round(days * 1440))


def snapshots() -> Iterator[dict[str, Any]]:
    """Yield states of groups that each live for about three days, at random times of a year."""
    chance = random.Random(5)
    for number in range(GROUPS):
        born = chance.random() * DAYS
        life = chance.expovariate(1 / 3)
        group_id = f"{chance.getrandbits(64):016x}"
        began = sorted({at(born + life * chance.random()) for _ in range(STATES)})
        ends = [*began[1:], at(born + life + 0.01)]
        for order, (valid_from, valid_to) in enumerate(zip(began, ends, strict=True)):
            last = order == len(began) - 1
            is_open = last and born + life >= DAYS
            yield {
                "account": ("main", "main", "hedge", "small")[number % 4],
                "order_group_id": group_id,
                "valid_from": valid_from,
                "is_auto_cancel_enabled": order % 2 == 0,
                "first_poll_id": 1,
                "last_poll_id": None if is_open else 1,
                "last_seen_at": None if is_open else valid_to - timedelta(minutes=1),
                "valid_to": None if is_open else valid_to,
                "end_reason": None if is_open else "removed" if last else "changed",
            }


def events(states: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the event behind each state, half a minute before the poll that saw the state."""
    for state in states:
        happened_at = state["valid_from"] - timedelta(seconds=30)
        kind = "reset" if state["is_auto_cancel_enabled"] else "triggered"
        yield {
            "account": state["account"],
            "order_group_id": state["order_group_id"],
            "occurred_at": happened_at,
            "identity": f"1 - - {kind}",
            "event_type": kind,
            "event_at": happened_at,
            "received_at": happened_at,
        }


def fill(database: Database) -> None:
    migrate(database)
    # The exporter writes snapshots in chronological order.
    states = sorted(snapshots(), key=lambda state: (state["valid_from"], state["order_group_id"]))
    with database.transaction() as connection:
        for name in ("main", "hedge", "small"):
            connection.execute(
                accounts.insert(),
                {
                    "account": name,
                    "version": 1,
                    "observed_at": at(DAYS),
                    "last_poll_id": 1,
                    "failed_polls": 0,
                    "refused_polls": 0,
                },
            )
            connection.execute(
                coverage.insert(),
                [
                    {
                        "account": name,
                        "started_at": at(day),
                        "ended_at": at(day + 0.9),
                        "polls": 1,
                        "gap_started_at": at(day - 0.1) if day else None,
                        "gap_cause": "timeout" if day else None,
                    }
                    for day in range(int(DAYS))
                ],
            )
            connection.execute(
                stream_coverage.insert(),
                [
                    {
                        "account": name,
                        "started_at": at(day),
                        "ended_at": at(day + 0.9),
                        "events": 1,
                        "gap_started_at": at(day - 0.1) if day else None,
                        "gap_cause": "disconnected" if day else None,
                        "is_latest": day == int(DAYS) - 1,
                    }
                    for day in range(int(DAYS))
                ],
            )
        connection.execute(order_group_snapshots.insert(), states)
        connection.execute(order_group_events.insert(), list(events(states)))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Yield a SQLite database with 100,000 snapshots."""
    path = tmp_path_factory.mktemp("plans") / "order_groups.db"
    with closing(Database(f"sqlite:///{path}")) as database:
        fill(database)
        yield database


@pytest.fixture(scope="module")
def postgres(postgres_server: str) -> Iterator[Database]:
    """Yield a Postgres database with the same snapshots and fresh statistics."""
    import psycopg
    from sqlalchemy import make_url

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE plans")
    url = make_url(postgres_server).set(drivername="postgresql+psycopg", database="plans")
    with closing(Database(url.render_as_string(hide_password=False))) as database:
        fill(database)
        with database.transaction() as connection_:
            connection_.execute(text("ANALYZE"))
        yield database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE plans WITH (FORCE)")


def plan_on_sqlite(database: Database, query: str) -> list[str]:
    with database.transaction() as connection:
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]


def plan_on_postgres(database: Database, query: str) -> list[str]:
    def nodes(node: dict[str, Any]) -> Iterator[str]:
        name = node.get("Index Name", node.get("Relation Name"))
        if name:
            yield f"{node['Node Type']} on {name}"
        for child in node.get("Plans", ()):
            yield from nodes(child)

    with database.transaction() as connection:
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}").scalar_one()
    plan = json.loads(explained) if isinstance(explained, str) else explained
    return list(nodes(plan[0]["Plan"]))


def queries() -> dict[str, str]:
    """Return the queries that analysts ask, by name."""
    asked = {
        "present": "SELECT * FROM order_groups_current",
        "present of an account": "SELECT * FROM order_groups_current WHERE account = 'small'",
        "one group": "SELECT * FROM order_group_history"
        " WHERE account = 'main' AND order_group_id = 'x' ORDER BY valid_from",
        "one group's changes": "SELECT * FROM order_group_changes"
        " WHERE account = 'main' AND order_group_id = 'x'",
        "one group, whatever its account": "SELECT * FROM order_group_history"
        " WHERE order_group_id = 'x'",
        "gaps of an account": "SELECT * FROM coverage_gaps WHERE account = 'main'"
        f" AND gap_end > '{to_text(at(3))}'",
    }
    asked["one group's events"] = (
        "SELECT * FROM order_group_events WHERE account = 'main' AND order_group_id = 'x'"
    )
    asked["one group's triggers"] = (
        "SELECT * FROM order_group_triggers WHERE account = 'main' AND order_group_id = 'x'"
    )
    asked["stream gaps of an account"] = "SELECT * FROM stream_gaps WHERE account = 'main'"
    for name, days in INSTANTS.items():
        start, end = f"'{to_text(at(days))}'", f"'{to_text(at(days + 1))}'"
        day = f"changed_at >= {start} AND changed_at < {end}"
        asked[f"a day's changes, {name}"] = f"SELECT * FROM order_group_changes WHERE {day}"
        asked[f"a day's changes of an account, {name}"] = (
            f"SELECT * FROM order_group_changes WHERE account = 'main' AND {day}"
        )
        for what, instant in (("events", "event_at"), ("triggers", "triggered_at")):
            span = f"{instant} >= {start} AND {instant} < {end}"
            asked[f"a day's {what}, {name}"] = f"SELECT * FROM order_group_{what} WHERE {span}"
        asked[f"as of, {name}, of an account"] = f"{rule(days)} AND account = 'small'"
    return asked


def rule(days: float) -> str:
    """Return the documented query for the state as of an instant."""
    instant = f"'{to_text(at(days))}'"
    return f"SELECT * FROM order_group_snapshots WHERE {RULE.format(t=instant)}"


@pytest.fixture(params=["as installed", "counted"])
def statistics(sqlite: Database, request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with the planner statistics that `migrate` left, and with those of ANALYZE."""
    with sqlite.transaction() as connection:
        left = connection.exec_driver_sql("SELECT tbl, idx, stat FROM sqlite_stat1").all()
        if request.param == "counted":
            connection.exec_driver_sql("ANALYZE")
    yield
    with sqlite.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM sqlite_stat1")
        for row in left:
            connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", tuple(row))
        connection.exec_driver_sql("ANALYZE sqlite_master")


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("name", queries())
def test_sqlite_uses_an_index(sqlite: Database, name: str) -> None:
    plan = plan_on_sqlite(sqlite, queries()[name])
    scans = [line for line in plan if re.search(r"^SCAN", line) and not _is_small(line)]
    assert scans == [], plan
    # Only two parts scan an account's whole history: "as of an instant", and the check whether an
    # account's first poll lies in the span.
    if not name.startswith("as of"):
        whole = [line for line in plan if line.endswith("PRIMARY KEY (account=?)")]
        first = [line for line in plan if line.startswith("SEARCH c ") and "started_at>?" in line]
        assert len(whole) == len(first), plan


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("days", [0, DAYS - 1])
def test_the_report_reads_states_in_the_order_of_the_key(sqlite: Database, days: float) -> None:
    # It relies on the order in which SQLite joins their values.
    ends = {"account": "main", "since": to_text(at(days)), "until": to_text(at(DAYS))}
    assert plan_with(sqlite, QUERY, ends) == [
        "SEARCH order_group_snapshots USING PRIMARY KEY (account=?)"
    ]


@pytest.mark.usefixtures("statistics")
def test_the_report_looks_up_earlier_triggers_by_group(sqlite: Database) -> None:
    asked = {"account": "main", "since": to_text(at(DAYS - 1)), "ids": '["x"]'}
    before, after = plan_with(sqlite, TRIGGERED_BEFORE, asked)[1:3]
    assert before.startswith("SEARCH before USING PRIMARY KEY (account=? AND order_group_id=?)")
    key = "PRIMARY KEY (account=? AND order_group_id=? AND valid_from=?)"
    assert after == f"SEARCH after USING {key}"


def plan_with(database: Database, query: str, parameters: dict[str, str]) -> list[str]:
    with database.transaction() as connection:
        explained = connection.execute(text(f"EXPLAIN QUERY PLAN {query}"), parameters)
        return [row[3] for row in explained]


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("name", INSTANTS)
def test_without_an_account_sqlite_scans_the_table_once(sqlite: Database, name: str) -> None:
    # An index on one of the instants would need a look-up per row, which takes ten times as long.
    # Histories too long for a scan use the documented form below.
    assert plan_on_sqlite(sqlite, rule(INSTANTS[name])) == ["SCAN order_group_snapshots"]


@pytest.mark.usefixtures("statistics")
def test_changes_since_an_instant_use_the_time_indexes_on_sqlite(sqlite: Database) -> None:
    # This is the query of `status`. Postgres is left out: its plan depends on the number of rows.
    plan = plan_on_sqlite(
        sqlite, f"SELECT * FROM order_group_changes WHERE changed_at >= '{to_text(at(DAYS - 1))}'"
    )
    assert any("order_group_snapshots_valid_from (valid_from>?" in line for line in plan), plan
    assert any("order_group_snapshots_valid_to (valid_to>?" in line for line in plan), plan


@contextmanager
def explained(how: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield a list that collects the plans of the statements that read order groups."""
    plans: list[tuple[Any, ...]] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "order_group" in statement:
            cursor.execute(f"{how} {statement}", parameters)
            plans.extend(cursor.fetchall())

    listen(Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        remove(Engine, "before_cursor_execute", explain)


def read_status(database: Database) -> None:
    configured = [(name, 60.0) for name in ("main", "hedge", "small")]
    url = database.url.render_as_string(hide_password=False)
    found = status(url, configured, now=at(DAYS))
    assert sum(each.changes for each in found) > 20
    assert sum(each.stream.triggers for each in found) > 20


@pytest.mark.usefixtures("statistics")
def test_status_reads_the_last_day_by_time_on_sqlite(sqlite: Database) -> None:
    with explained("EXPLAIN QUERY PLAN") as rows:
        read_status(sqlite)
    plan = [row[3] for row in rows]
    for index in (
        "snapshots_valid_to (valid_to>?",
        "snapshots_valid_from (valid_from>?",
        "snapshots_open (account=?",
        "events_event_at (event_at>?",
    ):
        assert any(f"order_group_{index}" in line for line in plan), plan
    assert [line for line in plan if line.startswith("SCAN") and not _is_small(line)] == []


def test_status_reads_the_last_day_by_time_on_postgres(postgres: Database) -> None:
    with explained("EXPLAIN") as rows:
        read_status(postgres)
    assert rows
    assert [row[0] for row in rows if "Seq Scan on order_group" in row[0]] == []


@pytest.mark.usefixtures("statistics")
def test_a_poll_reads_no_history_on_sqlite(sqlite: Database) -> None:
    plan = plan_on_sqlite(
        sqlite, "SELECT * FROM order_group_snapshots WHERE account = 'main' AND valid_to IS NULL"
    )
    assert plan == [
        "SEARCH order_group_snapshots USING INDEX order_group_snapshots_open (account=?)"
    ]


def _is_small(line: str) -> bool:
    """Return whether a scan reads only accounts, a few wanted values, or open states."""
    return bool(
        re.fullmatch(
            r"SCAN (a|anon_1 VIRTUAL TABLE.*|wanted|ends|heard|order_group_(changes|triggers)"
            r"|standing|CONSTANT ROW|\d+ .*ROWS?)",
            line,
        )
        or re.search(r"USING (COVERING )?INDEX order_group_snapshots_open$", line)
    )


@pytest.mark.parametrize(
    ("name", "query"), [*queries().items(), *((f"as of, {i}", rule(INSTANTS[i])) for i in INSTANTS)]
)
def test_postgres_uses_an_index(postgres: Database, name: str, query: str) -> None:  # noqa: ARG001  # it names the test case
    plan = plan_on_postgres(postgres, query)
    # Scans are fine on `accounts`, with three rows, and on the coverage tables, with few pages.
    assert not [
        node for node in plan if "Seq Scan" in node and not node.endswith((" accounts", "coverage"))
    ], plan


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("name", INSTANTS)
def test_the_documented_form_reads_no_other_snapshots(sqlite: Database, name: str) -> None:
    query = standing_at(to_text(at(INSTANTS[name])))
    with sqlite.transaction() as connection:
        expected = connection.exec_driver_sql(f"{rule(INSTANTS[name])} ORDER BY 1, 2, 3").all()
        rows = connection.exec_driver_sql(f"{query} ORDER BY 1, 2, 3").all()
    assert rows == expected
    assert len(rows) > 20

    plan = plan_on_sqlite(sqlite, query)
    reads = [line for line in plan if "order_group_snapshots" in line]
    for line in reads:
        assert re.search(
            r"COVERING INDEX order_group_snapshots_valid_to|_open|account=\? AND order_group_id=\?",
            line,
        ), plan
    assert any(
        "COVERING INDEX order_group_snapshots_valid_to (valid_to>?)" in line for line in reads
    )


@pytest.mark.usefixtures("statistics")
def test_a_day_of_one_account_reads_only_that_day_on_sqlite(sqlite: Database) -> None:
    start, end = to_text(at(100)), to_text(at(101))
    plan = plan_on_sqlite(
        sqlite,
        "SELECT * FROM order_group_changes WHERE account = 'main'"
        f" AND changed_at >= '{start}' AND changed_at < '{end}'",
    )
    assert any("order_group_snapshots_valid_from (valid_from>? AND" in line for line in plan), plan
    assert any("order_group_snapshots_valid_to (valid_to>? AND" in line for line in plan), plan
