"""Rows that are copied in the binary format are those that their texts would have made."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from exporter.database.database import Database
from exporter.database.postgres_copy import Kind, copy_in

VALUES: dict[Kind, list[Any]] = {
    "bigint": [None, 0, 1, -1, 2**63 - 1, -(2**63)],
    "boolean": [None, False, True],
    "json": [None, "{}", '{"a": "\\u0000", "b": 1e400, "c": 1.10}'],
    "numeric": [
        *(None, "0.00", "0.0001", "0.10", "1.00", "7447.00", "9999.99", "10000.00", "10000.0001"),
        *("120000000.00", "0.000000000000000000000000000001", f"{10**60 + 1}.{10**29 + 3}"),
    ],
    "text": ["", "a", "\\N", "a\\b\tc\nd", "é", "🦀" * 256],
    "timestamptz": [
        None,
        datetime(2026, 11, 26, 12, 47, 54, 320559, tzinfo=UTC),
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
}

TABLE = f"""
CREATE TABLE copied (
    shared bigint, portion text, number bigint, {", ".join(f"a_{kind} {kind}" for kind in VALUES)}
)
"""


def as_text(value: Any) -> str | None:
    """Return the value as Postgres shows it."""
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").removesuffix(".").zfill(19) + "+00"
        case bool():
            return str(value).lower()
        case None:
            return None
        case _:
            return str(value)


@pytest.mark.parametrize("encoding", ["utf8", "latin1"])
def test_every_kind_of_value_arrives_as_it_was_sent(postgres_url: str, encoding: str) -> None:
    database = Database(f"{postgres_url}&client_encoding={encoding}")
    values = {
        kind: [
            value
            for value in column
            if encoding == "utf8" or kind != "text" or (value or "").isascii() or value == "é"
        ]
        for kind, column in VALUES.items()
    }
    longest = max(map(len, values.values()))
    rows = [
        [column[number % len(column)] for column in values.values()] for number in range(longest)
    ]
    columns: dict[str, Kind] = {"shared": "bigint", "portion": "text", "number": "bigint"}
    columns |= {f"a_{kind}": kind for kind in values}
    halves = {"first": range(longest // 2), "second": range(longest // 2, longest)}
    with database.transaction() as connection:
        connection.execute(text(TABLE))
        copy_in(
            connection,
            "copied",
            columns,
            [
                ((7, portion), [numbers, *zip(*(rows[each] for each in numbers), strict=True)])
                for portion, numbers in halves.items()
            ],
        )
        selected = ", ".join(f"a_{kind}::text" for kind in values)
        found = connection.execute(
            text(f"SELECT shared, portion, number, {selected} FROM copied ORDER BY number")
        ).all()
    assert [tuple(row) for row in found] == [
        (7, portion, number, *map(as_text, rows[number]))
        for portion, numbers in halves.items()
        for number in numbers
    ]
    database.close()


def test_copying_no_rows_is_no_error(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE copied (n bigint)"))
        copy_in(connection, "copied", {"n": "bigint"}, [])
        assert connection.execute(text("SELECT COUNT(*) FROM copied")).scalar_one() == 0
    database.close()
