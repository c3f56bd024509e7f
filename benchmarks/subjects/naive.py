"""Poll as a first simple program would: requests and SQLAlchemy Core, one row per group and poll.

What changed, and when, can be found only by comparing all rows of two polls in SQL. An absent row
may mean an absent group or a missed poll. A transport error ends the program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import requests
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    create_engine,
    insert,
)

from benchmarks.place import Place
from benchmarks.signing import Signer

_metadata = MetaData()
_order_groups = Table(
    "order_groups",
    _metadata,
    Column("polled_at", DateTime(timezone=True), primary_key=True),
    Column("id", String, primary_key=True),
    Column("is_auto_cancel_enabled", Boolean, nullable=False),
    Column("contracts_limit_fp", Numeric(20, 2, asdecimal=False)),
    Column("exchange_index", Integer),
)


class Naive:
    """A job that polls one account."""

    def __init__(self, place: Place) -> None:
        self._url = place.base_url + "/portfolio/order_groups"
        (self._key_id,) = place.key_ids
        self._signer = Signer(place.key_file)
        self._session = requests.Session()
        self._engine = create_engine(place.sqlalchemy_url)
        _metadata.create_all(self._engine)

    def poll(self) -> None:
        """Send one request, and write the whole response."""
        response = self._session.get(
            self._url, headers=self._signer.headers(self._key_id), timeout=20
        )
        response.raise_for_status()
        now = datetime.now(UTC)
        rows = [{"polled_at": now, **group} for group in response.json()["order_groups"]]
        with self._engine.begin() as connection:
            connection.execute(insert(_order_groups), rows)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self._engine.dispose()


@contextmanager
def subject(place: Place) -> Iterator[Naive]:
    """Yield the job, ready to poll."""
    naive = Naive(place)
    try:
        yield naive
    finally:
        naive.close()
