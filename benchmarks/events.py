"""Measure how fast a burst of events is written, compared with the driver alone."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from time import perf_counter

from benchmarks.place import Place
from benchmarks.results import EXPORTER, FLOOR, Line
from benchmarks.setting import Samples, Setting
from benchmarks.subjects.event_tables import Heard, event_table
from exporter.database.database import Database
from exporter.history.migrate import ensure_current
from exporter.history.occurrences import Occurrences
from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroupEvent, StreamBatch

_BATCH = 10_000
_START = datetime(2026, 11, 1, tzinfo=UTC)


def burst(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure a burst as a kill switch causes it: all groups of an account are triggered."""
    count = 20_000 if setting.quick else 100_000
    heard = [
        OrderGroupEvent(
            order_group_id=str(uuid.uuid4()),
            event_type="triggered",
            event_at=_START + timedelta(milliseconds=number // 100),
            received_at=_START + timedelta(microseconds=10 * number),
        )
        for number in range(count)
    ]
    samples = Samples()
    for _ in range(3):
        for subject, record in ((FLOOR, _floor), (EXPORTER, _exporter)):
            place = setting.place(on_postgres=on_postgres)
            with setting.temporary(place):
                samples.add(subject, rate=count / record(place, heard))
    where = "Postgres" if on_postgres else "SQLite"
    return [
        Line(
            case=f"a burst of {count:,} events, {where}",
            unit="/s",
            values=samples.medians("rate"),
            at_most=0.5,
        )
    ]


def _batches(heard: Sequence[OrderGroupEvent]) -> Iterator[Sequence[OrderGroupEvent]]:
    for first in range(0, len(heard), _BATCH):
        yield heard[first : first + _BATCH]


def _floor(place: Place, heard: Sequence[OrderGroupEvent]) -> float:
    """Write the events with the driver, and return the seconds that it took."""
    with closing(event_table(place)) as table:
        began = perf_counter()
        for batch in _batches(heard):
            table.add(
                [
                    Heard(event.order_group_id, event.event_type, event.event_at, event.received_at)
                    for event in batch
                    if event.event_at is not None
                ]
            )
        return perf_counter() - began


def _exporter(place: Place, heard: Sequence[OrderGroupEvent]) -> float:
    """Write the events with the exporter's store, and return the seconds that it took."""
    with closing(Database(place.sqlalchemy_url)) as database:
        ensure_current(database, auto_migrate=True)
        store = StreamStore(database)
        number = Occurrences().number

        def write(events: Sequence[OrderGroupEvent]) -> None:
            batch = StreamBatch(
                account="main",
                own_groups_only=False,
                since=_START,
                until=events[-1].received_at if events else _START,
                events=tuple(number(event) for event in events),
            )
            assert store.write(batch).added == len(events)

        write([])
        began = perf_counter()
        for batch in _batches(heard):
            write(batch)
        return perf_counter() - began
