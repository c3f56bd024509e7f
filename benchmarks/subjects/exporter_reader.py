"""Run the exporter's `report` or `status`, whichever `detail` names."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.place import Place
from exporter.reading.status import status
from exporter.report.page import report


class Report:
    """A job that writes the report's page."""

    def __init__(self, place: Place, now: datetime) -> None:
        self._place = place
        self._now = now

    def poll(self) -> dict[str, float]:
        """Write the page once."""
        page = Path(self._place.directory) / "report.html"
        report(self._place.sqlalchemy_url, page, intervals={"main": 60.0}, now=self._now)
        return {"bytes": page.stat().st_size}


class Status:
    """A job that reads the status of all accounts."""

    def __init__(self, place: Place, now: datetime) -> None:
        self._url = place.sqlalchemy_url
        self._now = now
        self._configured = [(f"account-{number}", 60.0) for number in range(len(place.key_ids))]

    def poll(self) -> dict[str, float]:
        """Read the status once."""
        return {"rows": len(status(self._url, self._configured, now=self._now))}


@contextmanager
def subject(place: Place) -> Iterator[Report | Status]:
    """Yield the job that `detail` names: "report INSTANT" or "status INSTANT"."""
    what, now = place.detail.split()
    yield (Report if what == "report" else Status)(place, datetime.fromisoformat(now))
