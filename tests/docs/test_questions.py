"""The queries of docs/recipes/questions.md give the right answers on both databases."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from exporter import __version__
from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import to_text
from exporter.history.store import Store
from exporter.history.stream_store import StreamStore
from exporter.model import Observation, OrderGroup, OrderGroupEvent, Poll, StreamBatch

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes" / "questions.md"

NIGHT = "2026-11-22T"
DAY = "2026-11-23T"


def day(clock: str) -> str:
    """Return the instant at this time of the day, as text."""
    return f"2026-11-23T{clock}:00.000000Z"


def night(clock: str) -> str:
    """Return the instant at this time of the night before, as text."""
    return f"2026-11-22T{clock}:00.000000Z"


HOUR = 3600
ANSWERS: dict[int, list[tuple[Any, ...]]] = {
    1: [("main", "alpha", True), ("main", "gamma", True)],
    2: [("hedge",), ("idle",)],
    3: [("hedge", "observed"), ("idle", "observed"), ("main", "not_running")],
    4: [
        ("hedge", "omega", 100, 17 * HOUR),
        ("main", "alpha", 10, 1.5 * HOUR),
        ("main", "alpha", 25, 15.5 * HOUR),
        ("main", "beta", 5, 5 * HOUR),
        ("main", "beta", 7.5, 7 * HOUR),
        ("main", "gamma", None, 14 * HOUR),
    ],
    5: [
        (night("23:30"), "main", "alpha", "changed"),
        (day("01:00"), "main", "gamma", "appeared"),
        (day("02:00"), "main", "alpha", "changed"),
        (day("02:40"), "main", "alpha", "changed"),
        (day("03:00"), "main", "beta", "disappeared"),
    ],
    6: [("gamma", day("01:00"), 600), ("beta", day("08:00"), 600)],
    7: [
        ("hedge", "omega", 100, None),
        ("main", "alpha", 25, None),
        ("main", "beta", 7.5, None),
        ("main", "gamma", None, None),
    ],
    8: [
        ("hedge", "omega", night("22:00"), night("22:00")),
        ("main", "alpha", night("22:00"), day("14:00")),
        ("main", "beta", night("22:00"), day("08:00")),
        ("main", "gamma", day("01:00"), day("01:00")),
    ],
    9: [("main", "beta", day("02:50"), day("03:00"))],
    10: [("main", "beta", day("03:00"), day("08:00"))],
    11: [("main", "alpha", 40 * 60 + HOUR), ("main", "gamma", 14 * HOUR)],
    12: [
        ("hedge", "omega", 100),
        ("main", "alpha", 25),
        ("main", "beta", 7.5),
        ("main", "gamma", None),
    ],
    13: [(night("23:30"), "main", "alpha", 10, 25)],
    14: [("hedge", 100), ("idle", 100), ("main", 62.5)],
    15: [
        ("main", day("06:00"), HOUR, "unauthorized"),
        ("main", day("11:00"), 2 * HOUR, "not_running"),
    ],
    16: [("2026-11-23T06:00", "timeout", 1), ("2026-11-23T06:00", "unauthorized", 4)],
    17: [("hedge", 1), ("idle", 0), ("main", 3)],
    18: [("alpha", day("14:00"), __version__)],
    19: [
        ("main", "alpha", "different"),
        ("main", "beta", "different"),
        ("main", "gamma", "new"),
    ],
    20: [("main", "gamma", '{"note":"unknown"}')],
    21: [
        ("main", "alpha", day("01:55"), "reset", "event", 40 * 60),
        ("main", "alpha", day("04:03"), "reset", "event", 120),
    ],
    22: [("main", "alpha", day("14:00"), 25, "flag")],
    23: [
        ("main", "alpha", "2026-11-23T01:00", 1),
        ("main", "alpha", "2026-11-23T04:00", 1),
        ("main", "alpha", "2026-11-23T14:00", 1),
    ],
    24: [("hedge", "not_listening"), ("idle", "not_listening"), ("main", "disconnected")],
    25: [("main", day("06:00"), HOUR, "disconnected")],
    26: [("main", 8, 0.25, 0.25)],
    27: [("main", 2, 1)],
    28: [
        ("main", "appeared", 2, 0),
        ("main", "changed", 3, 1),
        ("main", "disappeared", 1, 0),
    ],
    29: [
        ("main", "alpha", "triggered", day("04:03")),
        ("main", "alpha", "reset", day("04:05")),
    ],
    30: [
        (night("23:25"), "limit_updated", 25),
        (day("01:55"), "triggered", None),
        (day("02:35"), "reset", None),
        (day("04:03"), "triggered", None),
        (day("04:05"), "reset", None),
    ],
}

EVENTS = [
    (night("23:25"), "alpha", "limit_updated", "25.00"),
    (day("00:58"), "gamma", "created", None),
    (day("01:55"), "alpha", "triggered", None),
    (day("02:35"), "alpha", "reset", None),
    (day("02:55"), "beta", "deleted", None),
    (day("04:03"), "alpha", "triggered", None),  # between two polls
    (day("04:05"), "alpha", "reset", None),
    (day("07:55"), "beta", "created", "7.50"),
]


@pytest.fixture(scope="module")
def sqlite(
    tmp_path_factory: pytest.TempPathFactory, write_day: Callable[[str], Database]
) -> Iterator[Database]:
    """Yield a SQLite database with the history of the day."""
    path = tmp_path_factory.mktemp("questions") / "order_groups.db"
    with closing(write_day(f"sqlite:///{path}")) as database:
        yield database


@pytest.fixture(scope="module")
def postgres(postgres_server: str, write_day: Callable[[str], Database]) -> Iterator[Database]:
    """Yield a Postgres database with the history of the day."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE questions")
    url = make_url(postgres_server).set(drivername="postgresql+psycopg", database="questions")
    with closing(write_day(url.render_as_string(hide_password=False))) as database:
        yield database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE questions WITH (FORCE)")


def questions() -> dict[int, dict[str, str]]:
    """Return the queries of the page, by number and kind of database."""
    found: dict[int, dict[str, str]] = {}
    for section in DOCUMENT.read_text("utf-8").split("\n## ")[1:]:
        number = int(section.partition(".")[0])
        for kind, query in re.findall(r"```sql(?: (\w+))?\n(.*?);\n```", section, re.DOTALL):
            for database in [kind] if kind else ["sqlite", "postgres"]:
                assert database not in found.setdefault(number, {}), number
                found[number][database] = query
    return found


def test_every_question_has_a_query_for_both_databases() -> None:
    assert list(questions()) == list(range(1, 31)) == list(ANSWERS)
    assert all(set(queries) == {"sqlite", "postgres"} for queries in questions().values())


def value(raw: Any) -> Any:
    """Return a database's value in the form in which `ANSWERS` has it."""
    if isinstance(raw, datetime):
        return to_text(raw)
    if isinstance(raw, dict):
        return str(raw).replace("'", '"').replace(": ", ":")
    if isinstance(raw, str) and re.fullmatch(r"[0-9]+\.[0-9]+", raw):
        return Decimal(raw)
    return raw


@pytest.mark.parametrize("number", ANSWERS)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_answer_is_right(kind: str, number: int, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    with database.transaction() as connection:
        rows = connection.exec_driver_sql(questions()[number][kind]).all()
    assert [tuple(value(each) for each in row) for row in rows] == ANSWERS[number]


def ask(recorder: Any, number: int, **instants: float) -> list[tuple[Any, ...]]:
    """Run a question's query with other instants.

    Args:
        recorder: gives the database.
        number: of the question.
        instants: for an instant in the query, such as `t0600`, the seconds to put in its place.
    """
    query = questions()[number]["sqlite" if recorder.database.is_sqlite else "postgres"]
    for clock, seconds in instants.items():
        instant = rf"2026-11-2[23]T{clock[1:3]}:{clock[3:]}:00(\.000000)?Z"
        query, count = re.subn(instant, to_text(recorder.at(seconds)), query)
        assert count, clock
    with recorder.database.transaction() as connection:
        rows = connection.exec_driver_sql(query).all()
    return [tuple(value(each) for each in row) for row in rows]


def test_edge_cases(recorder: Any) -> None:
    triggered, reset = OrderGroup("g", True), OrderGroup("g", False)
    recorder.ok(0, [triggered])
    recorder.ok(60, [triggered, OrderGroup("new", False)])
    recorder.ok(0, [], account="empty")
    recorder.ok(60, [], account="empty")
    recorder.fail(30, "rejected", account="refused")
    recorder.fail(200, "timeout")
    recorder.ok(600, [OrderGroup("g", False, "5.00")])
    recorder.ok(660, [OrderGroup("g", False, "5.00")])
    recorder.ok(720, [reset])
    recorder.ok(780, [triggered])

    # The instants lie inside a gap, at its ends, and before and after all observations.
    for seconds, why in (
        (-1, "before the first observation"),
        (0, "observed"),
        (60, "observed"),
        (61, "timeout"),
        (599, "timeout"),
        (600, "observed"),
        (780, "observed"),
        (781, "after the last observation"),
    ):
        answers = dict(ask(recorder, 3, t1200=seconds))
        assert answers["main"] == why, seconds
        assert answers["refused"] == "never observed"
        observed = [account for (account,) in ask(recorder, 2, t1200=seconds)]
        assert ("main" in observed) == (why == "observed")
    # An account without groups counts as observed.
    assert ask(recorder, 2, t1200=30) == [("empty",), ("main",)]
    # In a gap, the answer is the last state seen, marked as not observed.
    assert ask(recorder, 1, t1403=60) == [("main", "g", True)]
    assert ask(recorder, 1, t1403=61) == [("main", "g", False)]
    # A group of the first observation did not appear then; one of a later observation did.
    appeared = ask(recorder, 6)
    assert [row[0] for row in appeared] == ["new"]
    assert ask(recorder, 5, t2200=-60, t0600=70) == [
        (to_text(recorder.at(60)), "main", "new", "appeared")
    ]
    # A limit that is set or removed counts as a change.
    assert [row[3:] for row in ask(recorder, 13)] == [(None, 5), (5, None)]
    # An account without observations was observed 0 % of the time.
    shares = dict(ask(recorder, 14, t0600=-28_800, t1400=-1))
    assert shares == {"main": 0, "empty": 0, "refused": 0}
    # A change that is undone between the two instants makes no difference.
    assert ask(recorder, 19, t2300=0, t1403=780) == []
    assert ask(recorder, 19, t2300=60, t1403=720) == [
        ("main", "g", "different"),
        ("main", "new", "gone"),
    ]


def groups_of_main(clock: str) -> list[OrderGroup]:
    """Return the groups of the account main at an instant."""
    triggered = DAY + "02:00" <= clock < DAY + "02:40" or clock >= DAY + "14:00"
    groups = [OrderGroup("alpha", triggered, "10.00" if clock < NIGHT + "23:30" else "25.00")]
    if clock < DAY + "03:00":
        groups.append(OrderGroup("beta", False, "5.00"))
    elif clock >= DAY + "08:00":
        groups.append(OrderGroup("beta", False, "7.50"))
    if clock >= DAY + "01:00":
        groups.append(OrderGroup("gamma", True, extra='{"note":"unknown"}'))
    return groups


def outcome_of_main(clock: str) -> str | None:
    """Return the outcome of main's poll at an instant; None if there is no poll."""
    if DAY + "11:00" < clock < DAY + "13:00":
        return None
    if DAY + "06:00" < clock < DAY + "07:00":
        return "timeout" if clock == DAY + "06:20" else "unauthorized"
    return "ok"


@pytest.fixture(scope="module")
def write_day() -> Callable[[str], Database]:
    """Return a function that writes a night and a day of three accounts."""
    start = datetime(2026, 11, 22, 22, tzinfo=UTC)

    def write(url: str) -> Database:
        database = Database(url)
        migrate(database)
        store = Store(database, owner="test")
        for number in range(17 * 6 + 1):
            at = start + timedelta(minutes=10 * number)
            clock = to_text(at)[:16]
            for account in ("main", "hedge", "idle"):
                outcome = outcome_of_main(clock) if account == "main" else "ok"
                if outcome is None:
                    continue
                groups = {
                    "main": groups_of_main(clock),
                    "hedge": [OrderGroup("omega", False, "100.00")],
                    "idle": [],
                }[account]
                store.write(
                    Poll(
                        account=account,
                        started_at=at - timedelta(milliseconds=200),
                        finished_at=at,
                        outcome=outcome,  # type: ignore[arg-type]  # one of the literals
                        attempts=1,
                        observation=Observation(
                            observed_at=at,
                            digest=repr(groups),
                            groups={group.id: group for group in groups},
                        )
                        if outcome == "ok"
                        else None,
                    ),
                    head=store.claim(account, now=at, lease=5.0),
                    interval=600,
                    confirm_removal=2,
                )
        write_events(database)
        return database

    return write


def write_events(database: Database) -> None:
    """Write the events of main, and stream coverage until 06:00 and from 07:00 to 13:50."""
    for since, until, cause in (
        (night("22:05"), day("06:00"), "disconnected"),
        (day("07:00"), day("13:50"), None),
    ):
        StreamStore(database).write(
            StreamBatch(
                account="main",
                own_groups_only=False,
                since=datetime.fromisoformat(since),
                until=datetime.fromisoformat(until),
                events=tuple(
                    OrderGroupEvent(
                        order_group_id=group,
                        event_type=kind,
                        event_at=datetime.fromisoformat(at),
                        contracts_limit=limit,
                        received_at=datetime.fromisoformat(at) + timedelta(milliseconds=250),
                    )
                    for at, group, kind, limit in EVENTS
                    if since <= at <= until
                ),
                cause=cause,  # type: ignore[arg-type]  # one of the literals
            )
        )


@pytest.mark.parametrize("page", ["README.md", "docs/queries.md"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_queries_of_other_pages_run(
    kind: str, page: str, request: pytest.FixtureRequest
) -> None:
    text = (DOCUMENT.parents[2] / page).read_text("utf-8")
    blocks = re.findall(r"^```sql( \w+)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    queries = [
        query
        for label, block in blocks
        if kind == "sqlite" or not label  # a block with a label is for SQLite
        for query in re.split(r";\n", block)
        if query.strip()
    ]
    assert len(queries) > 3
    database: Database = request.getfixturevalue(kind)
    with database.transaction() as connection:
        for query in queries:
            connection.exec_driver_sql(query).all()
