"""A directory of Parquet files by account and day, as Spark, Trino, DuckDB and BigQuery read it.

`account=main/date=2026-03-01/changes.parquet`: one file for each account and day, always whole.
Another export of the same day replaces the file, so no row is ever there twice.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from exporter.reading.formats import Column, Parquet, Rows
from exporter.reading.output import OutputError, ended_by_signals

_INSTANTS = {
    "groups": "as_of",
    "history": "valid_from",
    "changes": "changed_at",
    "polls": "started_at",
    "gaps": "gap_start",
    "events": "occurred_at",
    "triggers": "triggered_at",
    "stream-gaps": "gap_start",
}
"""The column whose day, in UTC, is a row's."""

_DAY = 10  # characters of an instant: YYYY-MM-DD

# Hive and Spark escape these characters in a directory's name, and their readers undo that. They
# do not escape letters beyond ASCII.
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{}\[\]^]")


@contextmanager
def staged(directory: Path, what: str) -> Iterator[Path]:
    """Lend a directory for new files of a dataset, which move into it at the end of the block.

    Each file is moved in one step. If the block fails, the dataset stays as it was.

    Args:
        directory: of the dataset; made if it is not there.
        what: what `export` takes.

    Raises:
        OutputError: the directory cannot be written to, or holds a dataset of something else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_others(directory, what)
        stage = directory / f".{secrets.token_hex(4)}.part"  # no reader looks at such a name
        with ended_by_signals():
            stage.mkdir()
            try:
                yield stage
                for path in sorted(stage.rglob("*.part")):
                    place = directory / path.relative_to(stage).with_suffix("")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(place)
            finally:
                shutil.rmtree(stage)
    except OSError as error:
        raise OutputError(f"cannot write {directory}: {error.strerror or error}") from error


def _refuse_others(directory: Path, what: str) -> None:
    for path in directory.glob("account=*/date=*/*.parquet"):
        there = re.split(r"-\d|\.", path.name)[0]  # the instant of groups follows their name
        if there != what:
            raise OutputError(f"{directory} holds {there}: give {what} a directory of their own")
        return


class Dataset:
    """A writer of rows, sorted by account and day, into a file for each.

    The account is only in the directory's name: readers take it from there as a column, beside
    `date`, and some refuse a second column of that name.

    Args:
        columns: of the rows.
        stage: where the files are made, each with `.part` after its name.
        what: names the files and the column that a row's day is of.
        as_of: the instant of `groups`.
    """

    def __init__(
        self, columns: Sequence[Column], stage: Path, what: str, as_of: datetime | None
    ) -> None:
        names = [column.name for column in columns]
        self._account = names.index("account")
        self._instant = names.index(_INSTANTS[what])
        self._columns = [column for column in columns if column.name != "account"]
        self._stage = stage
        self._name = what if as_of is None else f"{what}-{as_of:%H%M%S.%f}Z"
        self._present: tuple[str, str] | None = None
        self._sink: BinaryIO | None = None
        self._writer: Parquet | None = None

    def write(self, rows: Rows) -> None:
        """Write some rows, the next by account and instant."""
        for key, part in groupby(
            rows, lambda row: (str(row[self._account]), str(row[self._instant])[:_DAY])
        ):
            if key != self._present:
                self.finish()
                self._begin(*key)
            if self._writer is not None:
                self._writer.write(
                    [(*row[: self._account], *row[self._account + 1 :]) for row in part]
                )

    def finish(self) -> None:
        """Complete the file at hand."""
        if self._writer is not None and self._sink is not None:
            self._writer.finish()
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._sink.close()
        self._writer = self._sink = None

    def abandon(self) -> None:
        """Close the file at hand, which is deleted with its stage."""
        if self._writer is not None and self._sink is not None:
            self._writer.abandon()
            self._sink.close()
        self._writer = self._sink = None

    def _begin(self, account: str, day: str) -> None:
        directory = self._stage / f"account={escaped(account)}" / f"date={day}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self._name}.parquet.part"
        self._sink = path.open("xb")
        self._writer = Parquet(self._columns, self._sink)
        self._present = account, day


def escaped(value: str) -> str:
    """Return a partition's value as Hive writes it into a directory's name."""
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", value)
