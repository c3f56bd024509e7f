"""Write a long history directly with the drivers, as years of polls would have left it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.place import Place
from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import to_text

START = datetime(2024, 1, 1, tzinfo=UTC)

_POLL = (
    "id, account, started_at, finished_at, observed_at, outcome, attempts, group_count, added,"
    " changed, removed, exporter_version"
)
_SNAPSHOT = (
    "account, order_group_id, valid_from, is_auto_cancel_enabled, contracts_limit, exchange_index,"
    " begin_reason, not_before, last_seen_at, valid_to, end_reason, first_poll_id, last_poll_id"
)
_ACCOUNT = (
    "account, version, observed_at, last_poll_id, group_count, coverage_started_at, failed_polls,"
    " refused_polls"
)
_COVERAGE = "account, started_at, ended_at, polls"
_STREAM_COVERAGE = "account, started_at, ended_at, events, last_event_at, is_latest"
_EVENT = "account, order_group_id, occurred_at, identity, event_type, event_at, received_at"

Row = tuple[Any, ...]


def make_schema(place: Place) -> None:
    """Create the exporter's schema in a new database."""
    with closing(Database(place.sqlalchemy_url)) as database:
        migrate(database)


def polls_behind(place: Place, account: str, count: int, *, changes: int) -> None:
    """Write `count` earlier polls of an account; each changed some groups.

    All of these groups have been removed since, so the next poll finds none of them.
    """
    second = timedelta(seconds=60)

    def polls() -> Iterator[Row]:
        for number in range(count):
            at = START + number * second
            counts = (changes, 0, changes, 0)
            yield (number + 1, account, at, at, at, "ok", 1, *counts, "0.1.0")

    def snapshots() -> Iterator[Row]:
        for number in range(count - 1):
            at = START + number * second
            for each in range(changes):
                first, not_before = ("changed", at - second) if number else ("found", None)
                last = "changed" if number < count - 2 else "removed"
                group = (account, f"gone-{each:04}", at, True, f"{number + 1}.00", 0)
                yield (*group, first, not_before, at, at + second, last, number + 1, number + 1)

    until = START + (count - 1) * second
    head = [(account, count, until, count, 0, START, 0, 0)]
    _fill(place, "polls", _POLL, polls())
    _fill(place, "order_group_snapshots", _SNAPSHOT, snapshots())
    _fill(place, "accounts", _ACCOUNT, head)
    _fill(place, "coverage", _COVERAGE, [(account, START, until, count)])
    if place.postgres is not None:
        _on_postgres(place, f"SELECT setval(pg_get_serial_sequence('polls', 'id'), {count})")
    _settle(place)


def group_id(number: int) -> str:
    """Return an id that looks like the exchange's; successive numbers give ids in no order."""
    return f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012}"


def many_snapshots(place: Place, *, groups: int, days: int) -> datetime:
    """Write a history in which each group changes once a day, and return its end."""
    day = timedelta(days=1)
    step = day / groups

    def snapshots() -> Iterator[Row]:
        for group in range(groups):
            for number in range(days):
                at = START + number * day + group * step
                last = number == days - 1
                state = (
                    "main",
                    group_id(group),
                    at,
                    number % 7 != 0,
                    f"{number + 1}.00",
                    group % 4,
                )
                seen = at + day - step
                ended = (None, None, None) if last else (seen, at + day, "changed")
                number_of_poll = number * groups + group + 1
                polls = (number_of_poll, None if last else number_of_poll + groups - 1)
                # Only the first state of the first group was there at the first observation.
                began = "changed" if number else "appeared" if group else "found"
                not_before = None if began == "found" else at - step
                yield (*state, began, not_before, *ended, *polls)

    until = START + days * day
    count = groups * days
    _fill(place, "order_group_snapshots", _SNAPSHOT, snapshots())
    _fill(place, "accounts", _ACCOUNT, [("main", count, until, count, groups, START, 0, 0)])
    _fill(place, "coverage", _COVERAGE, [("main", START, until, count)])
    _settle(place)
    return until


def many_accounts(place: Place, *, groups: int, polls: int) -> datetime:
    """Write an hour of history for each account of a place, and return its end.

    Each account has `polls` polls. At the first, all its groups change, each with one event. The
    stream coverage lasts until the end.
    """
    until = START + timedelta(hours=1)
    step = timedelta(hours=1) / polls
    names = list(place.accounts)

    def rows_of_polls() -> Iterator[Row]:
        for number in range(polls):
            at = START + (number + 1) * step
            for name in names:
                yield (name, at, at, at, "ok", 1, groups, 0, 0, 0, "0.1.0")

    def snapshots() -> Iterator[Row]:
        for name in names:
            for number in range(groups):
                group = (name, group_id(number))
                changed = START + step
                yield (
                    *group,
                    START,
                    False,
                    "1.00",
                    0,
                    "found",
                    None,
                    START,
                    changed,
                    "changed",
                    1,
                    1,
                )
                yield (
                    *group,
                    changed,
                    True,
                    "1.00",
                    0,
                    "changed",
                    START,
                    None,
                    None,
                    None,
                    2,
                    None,
                )

    def events() -> Iterator[Row]:
        for name in names:
            for number in range(groups):
                at = START + step
                identity = "1 - - triggered"
                yield (name, group_id(number), at, identity, "triggered", at, at)

    _fill(place, "polls", _POLL.removeprefix("id, "), rows_of_polls())
    _fill(place, "order_group_snapshots", _SNAPSHOT, snapshots())
    _fill(place, "order_group_events", _EVENT, events())
    heads = [(name, polls, until, 1, groups, START, 0, 0) for name in names]
    _fill(place, "accounts", _ACCOUNT, heads)
    _fill(place, "coverage", _COVERAGE, [(name, START, until, polls) for name in names])
    streams = [(name, START, until, groups, START + step, True) for name in names]
    _fill(place, "stream_coverage", _STREAM_COVERAGE, streams)
    _settle(place)
    return until


def _fill(place: Place, name: str, columns: str, rows: Any) -> None:
    if place.postgres is not None:
        import psycopg

        with (
            psycopg.connect(place.postgres) as connection,
            connection.cursor().copy(f"COPY {name} ({columns}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
        return
    with closing(sqlite3.connect(place.sqlite_file)) as connection_, connection_:
        marks = ", ".join("?" * len(columns.split()))
        connection_.executemany(
            f"INSERT INTO {name} ({columns}) VALUES ({marks})",
            ([_value(each) for each in row] for row in rows),
        )


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_text(value)
    return value


def _settle(place: Place) -> None:
    """Make the database do its pending work now, rather than during a measurement."""
    if place.postgres is not None:
        _on_postgres(place, "VACUUM ANALYZE")
        _on_postgres(place, "CHECKPOINT")
        return
    with closing(sqlite3.connect(place.sqlite_file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _on_postgres(place: Place, statement: str) -> None:
    import psycopg

    assert place.postgres is not None
    with psycopg.connect(place.postgres, autocommit=True) as connection:
        connection.execute(statement)
