"""The packages alone with many accounts: what is left of the floor's rate once they are used.

APScheduler starts a job per account and tick, requests asks on a kept connection, SQLAlchemy's
Core inserts one row in one transaction. Nothing else that the exporter does is done: no deadline,
no claim, no version, no coverage, no gap.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import requests
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
)

from exporter.assembly import MOST_AT_ONCE
from tests.benchmarks.place import Place
from tests.benchmarks.signing import PATH, Signer
from tests.benchmarks.subjects.exporter_daemon import passed

_POLLS = Table(
    "polls",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("account", Text, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("finished_at", DateTime, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("http_status", Integer),
    Column("digest", Text),
)
_INSERT = insert(_POLLS)


def _engine(place: Place) -> Engine:
    if place.postgres is not None:
        return create_engine(place.sqlalchemy_url, pool_size=MOST_AT_ONCE)
    engine = create_engine(place.sqlalchemy_url, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


class PackagesDaemon:
    """Jobs that run already."""

    def __init__(self, place: Place, interval: float, seconds: float) -> None:
        self._seconds = seconds
        self._engine = _engine(place)
        _POLLS.create(self._engine)
        self._signer = Signer(place.key_file)
        self._url = urljoin(place.base_url, PATH)
        self._count = 0
        self._lock = threading.Lock()
        self.scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(MOST_AT_ONCE)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        for account, key_id in place.accounts.items():
            session = requests.Session()
            session.trust_env = False
            self.scheduler.add_job(
                self._ask, "interval", seconds=interval, args=(session, account, key_id)
            )

    def _ask(self, session: requests.Session, account: str, key_id: str) -> None:
        started = datetime.now(UTC)
        response = session.get(self._url, headers=self._signer.headers(key_id), timeout=20)
        body = response.content
        row = {
            "account": account,
            "started_at": started,
            "finished_at": datetime.now(UTC),
            "outcome": "ok",
            "http_status": response.status_code,
            "digest": hashlib.blake2b(body, digest_size=32).hexdigest(),
        }
        with self._engine.begin() as connection:
            connection.execute(_INSERT, row)
        with self._lock:
            self._count += 1

    def polls(self) -> int:
        """How many there have been."""
        with self._lock:
            return self._count

    def poll(self) -> dict[str, float]:
        """Let some seconds pass, and tell what was done in them."""
        return passed(self.polls, self._seconds)


@contextmanager
def subject(place: Place) -> Iterator[PackagesDaemon]:
    """Give jobs that have run; `detail` as the exporter's daemon."""
    interval, seconds = place.detail.split()
    daemon = PackagesDaemon(place, float(interval) / 1000, float(seconds))
    daemon.scheduler.start()
    while daemon.polls() < 2 * len(place.key_ids):
        time.sleep(0.2)
    yield daemon
    daemon.scheduler.shutdown()
