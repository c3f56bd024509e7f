"""Poll with dlt and its `scd2` merge, into SQLite through SQLAlchemy, or into Postgres.

It keeps what changed and when. It cannot tell an absent group from a poll that never happened, nor
a group that one response left out from one that is gone. Numbers stay exact only if each column's
type is declared. It stages and merges all groups on every run, whatever has changed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# dlt reads these variables when it is imported.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt
import requests

from benchmarks.place import Place
from benchmarks.signing import Signer


class DltJob:
    """A job that polls one account."""

    def __init__(self, place: Place) -> None:
        self._url = place.base_url + "/portfolio/order_groups"
        (self._key_id,) = place.key_ids
        self._signer = Signer(place.key_file)
        self._session = requests.Session()
        if place.postgres is None:
            destination = dlt.destinations.sqlalchemy(place.sqlalchemy_url)
        else:
            socket, name = place.socket_and_name
            destination = dlt.destinations.postgres(
                # dlt insists on a password, although the local server does not ask for one.
                f"postgresql://postgres:none@localhost:5432/{name}?host={socket}"
            )
        self._pipeline = dlt.pipeline(
            "order_groups",
            destination=destination,
            dataset_name="history",
            pipelines_dir=f"{place.directory}/pipelines",
        )

    def poll(self) -> None:
        """Send one request, and merge the response."""
        response = self._session.get(
            self._url, headers=self._signer.headers(self._key_id), timeout=20
        )
        response.raise_for_status()
        self._pipeline.run(
            dlt.resource(
                response.json()["order_groups"],
                name="order_groups",
                primary_key="id",
                write_disposition={"disposition": "merge", "strategy": "scd2"},
            )
        ).raise_on_failed_jobs()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


@contextmanager
def subject(place: Place) -> Iterator[DltJob]:
    """Yield the job, ready to poll."""
    job = DltJob(place)
    try:
        yield job
    finally:
        job.close()
