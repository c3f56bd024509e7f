"""Tables in which the floor keeps events, written by the drivers, one transaction per batch."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from benchmarks.place import Place

_TABLE = (
    "CREATE TABLE events (account text, order_group_id text, event_type text, event_at {instant},"
    " received_at {instant}, PRIMARY KEY (account, order_group_id, event_at, event_type))"
)
_INDEX = "CREATE INDEX events_event_at ON events (event_at)"


class Heard(NamedTuple):
    """An event's row, without the account."""

    order_group_id: str
    event_type: str
    event_at: datetime
    received_at: datetime


class EventTable(ABC):
    """A table of events with the same key and index as the exporter's."""

    @abstractmethod
    def add(self, batch: Sequence[Heard]) -> None:
        """Commit a batch; events that exist already are left as they are."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class _Sqlite(EventTable):
    def __init__(self, place: Place) -> None:
        self._connection = sqlite3.connect(
            place.sqlite_file, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_TABLE.format(instant="text") + " WITHOUT ROWID")
        self._connection.execute(_INDEX)

    def add(self, batch: Sequence[Heard]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO events VALUES ('main', ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(*event[:2], str(event.event_at), str(event.received_at)) for event in batch],
        )
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class _Postgres(EventTable):
    def __init__(self, place: Place) -> None:
        import psycopg

        assert place.postgres is not None
        self._connection = psycopg.connect(place.postgres, autocommit=True)
        self._connection.execute(_TABLE.format(instant="timestamptz"))
        self._connection.execute(_INDEX)

    def add(self, batch: Sequence[Heard]) -> None:
        with self._connection.cursor() as cursor, self._connection.transaction():
            cursor.executemany(
                "INSERT INTO events VALUES ('main', %s, %s, %s, %s) ON CONFLICT DO NOTHING", batch
            )

    def close(self) -> None:
        self._connection.close()


def event_table(place: Place) -> EventTable:
    """Create the table in a place's database, and return it with an open connection."""
    return _Sqlite(place) if place.postgres is None else _Postgres(place)
