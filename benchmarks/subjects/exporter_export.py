"""Run the exporter's `export history`, into the format that `detail` names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.place import Place
from exporter.reading.export import export


class Export:
    """A job that exports everything."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def poll(self) -> dict[str, float]:
        """Export once."""
        output = Path(self._place.directory) / f"exporter.{self._place.detail}"
        exported = export(
            self._place.sqlalchemy_url,
            "history",
            file_format=self._place.detail,
            output=output,
        )
        return {"rows": exported.rows, "bytes": output.stat().st_size}


@contextmanager
def subject(place: Place) -> Iterator[Export]:
    """Yield the export, ready to run."""
    if place.detail == "parquet":
        import pyarrow.parquet  # noqa: F401  # its import must not be measured
    yield Export(place)
