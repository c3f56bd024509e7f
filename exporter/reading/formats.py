"""The file formats of `export`: rows, formatted as text by the database, become bytes."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, BinaryIO, Protocol

import msgspec

from exporter.errors import ConfigurationError
from exporter.installing import install_command
from exporter.reading.output import OutputError
from exporter.reading.views import Kind

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an export: its name, and the kind of its values."""

    name: str
    kind: Kind


class Writer(Protocol):
    """A writer of rows in one format."""

    def write(self, rows: Rows) -> None:
        """Write some rows, each with the values of all columns: text, integer or None."""

    def finish(self) -> None:
        """Write the end of the file, such as a footer."""

    def abandon(self) -> None:
        """Stop writing, because the rows will not be complete."""


class Csv:
    r"""Comma-separated values in UTF-8 with a header, quoted as RFC 4180 says; null is empty.

    Lines end in `\n`: every reader of CSV takes it, while text tools would leave the `\r` of a
    `\r\n` in the last column. A text that a spreadsheet might take for a formula stays as it is,
    because every other reader would see an escaped text as a wrong value.
    """

    def __init__(self, columns: Sequence[Column], sink: BinaryIO) -> None:
        self._sink = sink
        self.write([[column.name for column in columns]])

    def write(self, rows: Rows) -> None:
        """Write some rows."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._sink.write(text.getvalue().encode())

    def finish(self) -> None:
        """Do nothing: the format has no end."""

    def abandon(self) -> None:
        """Do nothing: every row is written already."""


class JsonLines:
    """One JSON object per line, with all columns, in UTF-8.

    Decimals are strings, because most readers turn a JSON number into a binary float, which cannot
    hold 0.1. Values stored as JSON are nested without any change: 1e400 stays 1e400.
    """

    def __init__(self, columns: Sequence[Column], sink: BinaryIO) -> None:
        self._columns = tuple(column.name for column in columns)
        # These are JSON already.
        self._ready = [
            index
            for index, column in enumerate(columns)
            if column.kind in {"boolean", "seconds", "json"}
        ]
        self._sink = sink
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Rows) -> None:
        """Write some rows."""
        objects = []
        for row in rows:
            values = list(row)
            for index in self._ready:
                if values[index] is not None:
                    values[index] = msgspec.Raw(values[index].encode())
            objects.append(dict(zip(self._columns, values, strict=True)))
        self._sink.write(self._encoder.encode_lines(objects))

    def finish(self) -> None:
        """Do nothing: the format has no end."""

    def abandon(self) -> None:
        """Do nothing: every row is written already."""


class Parquet:
    """Parquet with typed columns, one row group per call of `write`.

    Decimals are decimal128(38, 10), which other readers know; a value that does not fit is an
    error and is never rounded. JSON is text.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """

    def __init__(self, columns: Sequence[Column], sink: BinaryIO) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415  # an extra, and slow to import
            from pyarrow import parquet  # noqa: PLC0415  # the same
        except ImportError:
            raise ConfigurationError(
                f"parquet needs pyarrow: {install_command('parquet')}"
            ) from None
        types: dict[Kind, Any] = {
            "text": pa.string(),
            "instant": pa.timestamp("us", tz="UTC"),
            "boolean": pa.bool_(),
            "decimal": pa.decimal128(38, 10),
            "integer": pa.int64(),
            "seconds": pa.float64(),
            "json": pa.string(),
        }
        self._pa = pa
        self._columns = columns
        self._schema = pa.schema([pa.field(column.name, types[column.kind]) for column in columns])
        self._sink = _Counting(sink)
        self._writer = parquet.ParquetWriter(self._sink, self._schema)

    def write(self, rows: Rows) -> None:
        """Write some rows."""
        if not rows:
            return
        arrays = [
            self._array(column, field.type, values)
            for column, field, values in zip(
                self._columns, self._schema, zip(*rows, strict=True), strict=True
            )
        ]
        self._writer.write_batch(
            self._pa.RecordBatch.from_arrays(arrays, schema=self._schema),
        )

    def finish(self) -> None:
        """Write the footer, without which there is no Parquet file."""
        self._writer.close()

    def abandon(self) -> None:
        """Keep the writer from adding a footer, which it would do when it is collected."""
        self._sink.mute()
        self._writer.close()

    def _array(self, column: Column, type_: Any, values: Sequence[Any]) -> Any:
        if column.kind in {"text", "json", "integer"}:
            return self._pa.array(values, type_)
        if column.kind == "decimal":
            numbers = [None if value is None else Decimal(value) for value in values]
            try:
                return self._pa.array(numbers, type_)
            except self._pa.ArrowInvalid:
                raise OutputError(
                    f"{column.name} has a value with too many digits for parquet: use csv or jsonl,"
                    " which are exact"
                ) from None
        return self._pa.array(values, self._pa.string()).cast(type_)


class _Counting(io.RawIOBase):
    """A sink that counts its position, which Parquet's footer needs, even for a pipe."""

    def __init__(self, sink: BinaryIO) -> None:
        super().__init__()
        self._sink = sink
        self._position = 0
        self._muted = False

    def mute(self) -> None:
        """Discard everything that is written from now on."""
        self._muted = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._muted:
            self._sink.write(data)
        size = memoryview(data).nbytes
        self._position += size
        return size

    def tell(self) -> int:
        return self._position


FORMATS: dict[str, Callable[[Sequence[Column], BinaryIO], Writer]] = {
    "csv": Csv,
    "jsonl": JsonLines,
    "parquet": Parquet,
}
"""Each format's writer, by the name that `--format` takes."""
