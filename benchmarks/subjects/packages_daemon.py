"""Poll many accounts with the packages alone: APScheduler starts a job per account and tick.

The jobs are spread over the interval by the exporter's own grid, because an exchange limits how
many requests may come at once. If all come at once, each costs less: it finds the caches warm.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from benchmarks.place import Place
from benchmarks.subjects import packages
from benchmarks.subjects.exporter_daemon import passed
from exporter.daemon.grid import Grid
from exporter.recording.recorder import MAX_CONCURRENT_POLLS


class PackagesDaemon:
    """A scheduler with one job per account."""

    def __init__(
        self,
        ready: list[packages.PackagesAccount],
        interval: float,
        seconds: float,
        *,
        spread: bool,
    ) -> None:
        self._seconds = seconds
        self._count = 0
        self._lock = threading.Lock()
        self.scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(MAX_CONCURRENT_POLLS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        now = datetime.now(UTC)
        for account in ready:
            first = Grid(account.name, interval).get_next_fire_time(None, now) if spread else now
            self.scheduler.add_job(
                self._ask, "interval", seconds=interval, start_date=first, args=(account,)
            )

    def _ask(self, account: packages.PackagesAccount) -> None:
        account.poll()
        with self._lock:
            self._count += 1

    def polls(self) -> int:
        """Return how many polls there have been."""
        with self._lock:
            return self._count

    def poll(self) -> dict[str, float]:
        """Let some seconds pass, and return the work done in them."""
        return passed(self.polls, self._seconds)


@contextmanager
def subject(place: Place) -> Iterator[PackagesDaemon]:
    """Yield a scheduler whose jobs have run; `detail` is "MILLISECONDS SECONDS spread|at-once"."""
    interval, seconds, how = place.detail.split()
    with packages.accounts(place) as ready:
        daemon = PackagesDaemon(
            ready, float(interval) / 1000, float(seconds), spread=how == "spread"
        )
        daemon.scheduler.start()
        while daemon.polls() < 2 * len(place.key_ids):
            time.sleep(0.2)
        yield daemon
        daemon.scheduler.shutdown()
