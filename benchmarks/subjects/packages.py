"""Poll with the packages alone: requests and SQLAlchemy, used in the simplest way.

requests sends a request on a kept connection, and SQLAlchemy's Core inserts one row in one
transaction. There is no deadline, no claim, no version, no coverage and no gap.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import requests
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

from benchmarks.place import Place
from benchmarks.signing import PATH, Signer
from exporter.recording.recorder import MAX_CONCURRENT_POLLS

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
        return create_engine(place.sqlalchemy_url, pool_size=MAX_CONCURRENT_POLLS)
    engine = create_engine(place.sqlalchemy_url, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


class PackagesAccount:
    """One account, which any thread may poll."""

    def __init__(self, engine: Engine, place: Place, signer: Signer, name: str) -> None:
        self._engine = engine
        self._signer = signer
        self.name = name
        self._key_id = place.accounts[name]
        self._url = urljoin(place.base_url, PATH)
        self._session = requests.Session()
        self._session.trust_env = False

    def poll(self) -> None:
        """Send one request, and write a row."""
        started = datetime.now(UTC)
        headers = self._signer.headers(self._key_id)
        response = self._session.get(self._url, headers=headers, timeout=20)
        body = response.content
        row = {
            "account": self.name,
            "started_at": started,
            "finished_at": datetime.now(UTC),
            "outcome": "ok",
            "http_status": response.status_code,
            "digest": hashlib.blake2b(body, digest_size=32).hexdigest(),
        }
        with self._engine.begin() as connection:
            connection.execute(_INSERT, row)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


@contextmanager
def accounts(place: Place) -> Iterator[list[PackagesAccount]]:
    """Yield all accounts of a place, with a table for their polls."""
    engine = _engine(place)
    _POLLS.create(engine)
    signer = Signer(place.key_file)
    ready = [PackagesAccount(engine, place, signer, name) for name in place.accounts]
    try:
        yield ready
    finally:
        for account in ready:
            account.close()
        engine.dispose()


@contextmanager
def subject(place: Place) -> Iterator[PackagesAccount]:
    """Yield a place's only account."""
    with accounts(place) as ready:
        (account,) = ready
        yield account
