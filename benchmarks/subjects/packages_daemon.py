"""Poll many accounts with the packages alone: APScheduler starts a job per account and tick."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from benchmarks.place import Place
from benchmarks.subjects import packages
from benchmarks.subjects.exporter_daemon import passed
from exporter.recording.recorder import MAX_CONCURRENT_POLLS


class PackagesDaemon:
    """A scheduler with one job per account."""

    def __init__(
        self, ready: list[packages.PackagesAccount], interval: float, seconds: float
    ) -> None:
        self._seconds = seconds
        self._count = 0
        self._lock = threading.Lock()
        self.scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(MAX_CONCURRENT_POLLS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        for account in ready:
            self.scheduler.add_job(self._ask, "interval", seconds=interval, args=(account,))

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
    """Yield a scheduler whose jobs have run; `detail` is that of `exporter_daemon`."""
    interval, seconds = place.detail.split()
    with packages.accounts(place) as ready:
        daemon = PackagesDaemon(ready, float(interval) / 1000, float(seconds))
        daemon.scheduler.start()
        while daemon.polls() < 2 * len(place.key_ids):
            time.sleep(0.2)
        yield daemon
        daemon.scheduler.shutdown()
