"""Measure what one Postgres can carry: the exporter's own claims and writes, on 8 connections."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

import psycopg

from benchmarks.place import Place
from benchmarks.results import Section
from benchmarks.setting import Process, Setting
from benchmarks.subjects.exporter_writer import GROUPS, INTERVAL
from exporter.database.database import Database
from exporter.history.migrate import migrate

CONNECTIONS = 8

_TICKS = os.sysconf("SC_CLK_TCK")
# These accounts were observed a moment ago, so the next polls extend their stretches of coverage.
_OBSERVED = """
    INSERT INTO accounts (account, version, observed_at, last_poll_id, digest, group_count,
                          coverage_started_at, failed_polls, refused_polls)
        SELECT 'account ' || number, 1, now(), 1, 'digest', 25, now(), 0, 0
        FROM generate_series(0, %(accounts)s - 1) AS number;
    INSERT INTO coverage (account, started_at, ended_at, polls)
        SELECT account, coverage_started_at, observed_at, 1 FROM accounts;
"""


def capacity(setting: Setting) -> list[Section]:
    """Measure how many unchanged polls, and how many fully triggered accounts, fit in a second."""
    few, many = (200, 2_000) if setting.quick else (1_000, 100_000)
    rows = [
        _measure(setting, few, "unchanged"),
        _measure(setting, many, "unchanged"),
        _measure(setting, few, "triggered"),
    ]
    return [
        Section(
            title="What one Postgres carries",
            headings=[
                "each time",
                "accounts",
                "a second",
                "cores at work",
                "the writers' CPU, ms",
                "Postgres' CPU, ms",
                "a second, for each core of Postgres",
                "accounts at 60 s, for each core",
            ],
            rows=rows,
            note=f"By {CONNECTIONS} processes with a connection each, on the machine of the server,"
            " which is as it comes: each commit waits for the disk. An unchanged poll is the real"
            " claim and the real step, without the exchange. A triggered account is one batch of"
            f" {GROUPS} events, a claim, and a poll that finds {GROUPS} groups changed. The rate is"
            " that of all the cores, which the writers share; the last two columns follow from"
            " Postgres' CPU alone, and leave the disk out.",
        )
    ]


def _measure(setting: Setting, accounts: int, what: str) -> list[str]:
    seconds = 3.0 if setting.quick else 10.0
    with setting.temporary(setting.place(on_postgres=True)) as place, ExitStack() as stack:
        _fill(place, accounts, what)
        share = accounts // CONNECTIONS
        writers = [
            stack.enter_context(
                setting.start(
                    "exporter_writer",
                    place._replace(detail=f"{n * share} {(n + 1) * share} {seconds} {what}"),
                )
            )
            for n in range(CONNECTIONS)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        server, began = _server_cpu(place), perf_counter()
        answers = list(pool.map(Process.ask, writers))
        wall, server = perf_counter() - began, _server_cpu(place) - server
    done = sum(answer["polls"] for answer in answers)
    own = sum(answer["cpu"] for answer in answers)
    is_poll = what == "unchanged"
    return [
        "a poll that sees no change" if is_poll else "all groups are triggered",
        f"{accounts:,}",
        f"{done / wall:,.0f}",
        f"{(server + own) / wall:.1f} of {os.cpu_count()}",
        f"{own / done * 1e3:.2f}",
        f"{server / done * 1e3:.2f}",
        f"{done / server:,.0f}",
        f"{done / server * INTERVAL:,.0f}" if is_poll else "-",
    ]


def _fill(place: Place, accounts: int, what: str) -> None:
    with closing(Database(place.sqlalchemy_url)) as database:
        migrate(database)
    if what == "unchanged":
        with psycopg.ClientCursor(psycopg.connect(place.postgres or "", autocommit=True)) as cursor:
            cursor.execute(_OBSERVED, {"accounts": accounts})
            cursor.execute("VACUUM ANALYZE accounts, coverage")
            cursor.connection.close()


def _server_cpu(place: Place) -> float:
    """Return the CPU seconds of the server and of all its processes so far."""
    directory, _ = place.socket_and_name
    postmaster = int((Path(directory) / "postmaster.pid").read_text().splitlines()[0])
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if postmaster in {int(fields[1]), int(stat.parent.name)}:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
