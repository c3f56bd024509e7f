"""Run the exporter's daemon with many accounts, and count its polls and CPU."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

from sqlalchemy import create_engine, text

from benchmarks.place import Place
from benchmarks.subjects.exporter_poller import configure
from exporter.daemon.scheduler import Scheduler
from exporter.wiring import recorder_of


def passed(polls: Callable[[], int], seconds: float) -> dict[str, float]:
    """Let some seconds pass, and return the polls of other threads and the CPU time."""
    before, wall, cpu = polls(), perf_counter(), process_time()
    time.sleep(seconds)
    cpu, wall = process_time() - cpu, perf_counter() - wall
    return {"polls": polls() - before, "wall": wall, "cpu": cpu}


class ExporterDaemon:
    """A running daemon."""

    def __init__(self, place: Place, seconds: float) -> None:
        self._accounts = len(place.key_ids)
        self._seconds = seconds
        self._engine = create_engine(place.sqlalchemy_url)

    def polls(self) -> int:
        """Return how many polls there are in the database."""
        with self._engine.connect() as connection:
            return int(connection.scalar(text("SELECT COUNT(*) FROM polls WHERE outcome = 'ok'")))

    def poll(self) -> dict[str, float]:
        """Let some seconds pass, and return the work done in them."""
        return passed(self.polls, self._seconds)


@contextmanager
def subject(place: Place) -> Iterator[ExporterDaemon]:
    """Yield a daemon that has polled each account; `detail` is "MILLISECONDS SECONDS"."""
    interval, seconds = place.detail.split()
    configuration = configure(place, interval=f"{interval}ms")
    stop = threading.Event()
    with recorder_of(configuration, configuration.accounts, stop=stop) as recorder:
        recorder.prepare()
        scheduler = Scheduler(recorder, stop=stop)
        measured = ExporterDaemon(place, float(seconds))
        scheduler.start()
        # First polls are spread over an interval, but at most over five seconds.
        while measured.polls() < 2 * len(recorder.pollers):
            time.sleep(0.2)
        yield measured
        scheduler.stop()
