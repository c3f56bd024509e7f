"""Export with the driver, and with `csv` or `pyarrow`: the floor of the exporter's export.

It holds as many rows in memory at a time as the exporter does. It takes them in the database's own
order, while the exporter sorts them.
"""

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.place import Place

_QUERY = "SELECT * FROM order_group_history"
_ROWS_IN_A_GROUP = 50_000


class Export:
    """A job that exports everything."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def poll(self) -> dict[str, float]:
        """Export once."""
        output = Path(self._place.directory) / f"driver.{self._place.detail}"
        write = _csv if self._place.detail == "csv" else _parquet
        if self._place.postgres is None:
            with closing(sqlite3.connect(self._place.sqlite_file)) as connection:
                rows = write(connection.execute(_QUERY), output)
        else:
            import psycopg

            with (
                psycopg.connect(self._place.postgres) as connection_,
                connection_.cursor(name="export") as cursor,
            ):
                cursor.itersize = 5_000
                rows = write(cursor.execute(_QUERY), output)
        return {"rows": rows, "bytes": output.stat().st_size}


def _csv(cursor: Any, output: Path) -> int:
    count = 0
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        first = cursor.fetchone()
        writer.writerow(column[0] for column in cursor.description)
        for row in chain([first], cursor):
            writer.writerow(row)
            count += 1
    return count


def _parquet(cursor: Any, output: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    writer = None
    while rows := cursor.fetchmany(_ROWS_IN_A_GROUP):
        names = [column[0] for column in cursor.description]
        columns = [pa.array(values) for values in zip(*rows, strict=True)]
        if writer is None:
            schema = pa.schema(
                [
                    # A column without values in the first rows does not show its type.
                    (name, pa.string() if pa.types.is_null(each.type) else each.type)
                    for name, each in zip(names, columns, strict=True)
                ]
            )
            writer = pq.ParquetWriter(output, schema)
        cast = [each.cast(field.type) for each, field in zip(columns, schema, strict=True)]
        writer.write_batch(pa.RecordBatch.from_arrays(cast, schema=schema))
        count += len(rows)
    if writer is not None:
        writer.close()
    return count


@contextmanager
def subject(place: Place) -> Iterator[Export]:
    """Yield the export, ready to run."""
    if place.detail == "parquet":
        import pyarrow.parquet  # noqa: F401  # its import must not be measured
    yield Export(place)
