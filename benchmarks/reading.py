"""Measure the cost of reading 1,000,000 snapshots: ordinary queries, and exports."""

import sqlite3
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

from benchmarks import history
from benchmarks.place import Place
from benchmarks.results import EXPORTER, FLOOR, Line, Section, as_text
from benchmarks.setting import Samples, Setting
from exporter.history.schema import to_text
from tests.support.recipes import standing_at

_AS_OF = (
    "SELECT * FROM order_group_snapshots"
    " WHERE valid_from <= {t} AND (valid_to IS NULL OR valid_to > {t})"
)
_OF_ACCOUNT = " AND account = 'main'"


def _shape(setting: Setting) -> tuple[int, int]:
    return (1_000, 100) if setting.quick else (10_000, 100)


def _long_history(setting: Setting, *, on_postgres: bool) -> tuple[Place, datetime]:
    """Return a place with a history of many snapshots, and its end; it is written only once."""
    groups, days = _shape(setting)

    def make(place: Place) -> datetime:
        history.make_schema(place)
        return history.many_snapshots(place, groups=groups, days=days)

    return setting.keep("many snapshots", make, on_postgres=on_postgres)


def queries(setting: Setting, *, on_postgres: bool) -> list[Section]:
    """Measure queries of the past, the present and a day's changes, and show their plans."""
    groups, days = _shape(setting)
    place, until = _long_history(setting, on_postgres=on_postgres)
    recent, middle = until - timedelta(hours=12), until - timedelta(days=days / 2)
    asked = {
        "as of half a day ago": _AS_OF.format(t=_quoted(recent)),
        "as of the middle": _AS_OF.format(t=_quoted(middle)),
        "as of the middle, of one account": _AS_OF.format(t=_quoted(middle)) + _OF_ACCOUNT,
        "as of the middle, one group": _AS_OF.format(t=_quoted(middle))
        + _OF_ACCOUNT
        + f" AND order_group_id = '{history.group_id(0)}'",
        "the present: order_groups_current": "SELECT * FROM order_groups_current",
        "the last day's changes": "SELECT * FROM order_group_changes"
        f" WHERE changed_at >= {_quoted(until - timedelta(days=1))}",
        "a day's changes in the middle": "SELECT * FROM order_group_changes"
        f" WHERE changed_at >= {_quoted(middle)}"
        f" AND changed_at < {_quoted(middle + timedelta(days=1))}",
    }
    if not on_postgres:
        form = "as of half a day ago, by docs/queries.md's form for SQLite"
        asked[form] = standing_at(to_text(recent))
        asked["the first day's changes"] = (
            "SELECT * FROM order_group_changes"
            f" WHERE changed_at < {_quoted(history.START + timedelta(days=1))}"
        )
    answer = _on_postgres if on_postgres else _on_sqlite
    rows = [(name, *answer(place, query)) for name, query in asked.items()]
    return [
        Section(
            title=f"Reading {groups * days:,} snapshots of {groups:,} groups,"
            f" {'Postgres' if on_postgres else 'SQLite'}",
            headings=("question", "first row, ms", "all, ms", "rows", "plan"),
            rows=rows,
        )
    ]


def _quoted(instant: datetime) -> str:
    return f"'{to_text(instant)}'"


def _on_sqlite(place: Place, query: str) -> tuple[str, ...]:
    with closing(sqlite3.connect(place.sqlite_file)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        times = []
        for _ in range(3):
            started = perf_counter()
            cursor = connection.execute(query)
            cursor.fetchone()
            first = perf_counter() - started
            count = 1 + len(cursor.fetchall())
            times.append((first, perf_counter() - started))
    return _cells(times, count, "; ".join(line for line in plan if "order_group" in line))


def _on_postgres(place: Place, query: str) -> tuple[str, ...]:
    import psycopg

    assert place.postgres is not None
    with psycopg.connect(place.postgres) as connection:
        explained: Any = connection.execute(f"EXPLAIN {query}").fetchall()
        scans = [row[0].strip(" ->").partition("  (")[0] for row in explained if " Scan " in row[0]]
        times = []
        for number in range(3):
            started = perf_counter()
            with connection.cursor(name=f"reader_{number}") as cursor:
                cursor.itersize = 1
                cursor.execute(query)
                cursor.fetchone()
                first = perf_counter() - started
                count = 1 + len(cursor.fetchall())
            times.append((first, perf_counter() - started))
    return _cells(times, count, "; ".join(scans))


def _cells(times: list[tuple[float, float]], count: int, plan: str) -> tuple[str, ...]:
    first, whole = (min(each) for each in zip(*times, strict=True))
    return as_text(first, "ms"), as_text(whole, "ms"), f"{count:,}", plan.replace("|", "\\|")


def exports(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure `export history` to csv and parquet, compared with the driver alone."""
    groups, days = _shape(setting)
    lines = []
    place, _ = _long_history(setting, on_postgres=on_postgres)
    for form in ("csv", "parquet"):
        samples = Samples()
        for _ in range(1 if setting.quick or on_postgres else 3):
            for name, subject in ((EXPORTER, "exporter_export"), (FLOOR, "driver_export")):
                with setting.start(subject, place._replace(detail=form)) as process:
                    answer = process.ask()
                assert answer["rows"] == groups * days
                samples.add(
                    name,
                    wall=answer["wall"],
                    cpu=answer["cpu"],
                    memory=answer["peak"] - answer["peak_before"],
                )
        where = "Postgres" if on_postgres else "SQLite"
        lines += [
            Line(
                case=f"export of {groups * days:,} snapshots to {form}, {where}",
                unit="ms",
                values=samples.medians("wall"),
                cpu=samples.medians("cpu"),
                at_most=2,
            ),
            Line(
                case=f"memory that this export takes, {where}",
                unit="MB",
                values=samples.medians("memory"),
            ),
        ]
    return lines


def report(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure `report` of 1,000,000 snapshots, compared with the driver that reads them."""
    groups, days = _shape(setting)
    place, now = _long_history(setting, on_postgres=on_postgres)
    return _read(setting, place, "report", now, f"report of {groups * days:,} snapshots")


def status(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure `status` of 1,000 accounts, compared with the driver that reads the same rows."""
    count = 200 if setting.quick else 1_000
    key_ids = [f"00000000-0000-4000-8002-{number:012}" for number in range(count)]
    place = setting.place(key_ids=key_ids, on_postgres=on_postgres)
    with setting.temporary(place):
        history.make_schema(place)
        now = history.many_accounts(place, groups=25, polls=60)
        return _read(setting, place, "status", now, f"status of {count:,} accounts")


def _read(setting: Setting, place: Place, what: str, now: datetime, case: str) -> list[Line]:
    """Measure the exporter and the driver in turn, both reading the same rows."""
    samples = Samples()
    with ExitStack() as stack:
        told = place._replace(detail=f"{what} {now.isoformat()}")
        processes = {
            name: stack.enter_context(setting.start(subject, told))
            for name, subject in ((EXPORTER, "exporter_reader"), (FLOOR, "driver_reader"))
        }
        for number in range(2 if setting.quick else 4):
            for name, process in processes.items():
                answer = process.ask()
                if number:  # the first round warms up
                    samples.add(name, wall=answer["wall"], cpu=answer["cpu"])
    return [
        Line(
            case=f"{case}, {'SQLite' if place.postgres is None else 'Postgres'}"
            " (floor: the driver reads the rows)",
            unit="ms",
            values=samples.medians("wall"),
            cpu=samples.medians("cpu"),
            at_most=1.5,
        )
    ]
