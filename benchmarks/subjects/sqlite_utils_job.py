"""Poll with sqlite-utils: upsert the state by id, and append each response as one row of JSON.

It writes only SQLite. The table of the state keeps groups that are gone. The time of a change is
only in the stored responses, which grow by a whole response with each poll.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import requests
import sqlite_utils

from benchmarks.place import Place
from benchmarks.signing import Signer


class SqliteUtilsJob:
    """A job that polls one account."""

    def __init__(self, place: Place) -> None:
        self._url = place.base_url + "/portfolio/order_groups"
        (self._key_id,) = place.key_ids
        self._signer = Signer(place.key_file)
        self._session = requests.Session()
        self._database = sqlite_utils.Database(place.sqlite_file)

    def poll(self) -> None:
        """Send one request; upsert the state and append the response."""
        response = self._session.get(
            self._url, headers=self._signer.headers(self._key_id), timeout=20
        )
        response.raise_for_status()
        now = datetime.now(UTC).isoformat()
        groups = response.json()["order_groups"]
        self._database["order_groups"].upsert_all(groups, pk="id")
        self._database["snapshots"].insert({"polled_at": now, "order_groups": groups})

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self._database.close()


@contextmanager
def subject(place: Place) -> Iterator[SqliteUtilsJob]:
    """Yield the job, ready to poll."""
    job = SqliteUtilsJob(place)
    try:
        yield job
    finally:
        job.close()
