"""How the databases hold instants and exact decimals, and how they take many texts at once."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    ColumnElement,
    Connection,
    Dialect,
    Numeric,
    Text,
    any_,
    func,
    literal,
    select,
)
from sqlalchemy.types import TypeDecorator, TypeEngine


class Instant(TypeDecorator[datetime]):
    """A UTC instant: timestamptz on Postgres, fixed-width text on SQLite.

    SQLAlchemy's own DateTime(timezone=True) silently drops the offset on SQLite. The text is
    `YYYY-MM-DDTHH:MM:SS.ffffffZ`, always 27 characters, so that text order is time order.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type by the database."""
        return dialect.type_descriptor(
            TIMESTAMP(timezone=True) if dialect.name == "postgresql" else Text()
        )

    # `process_bind_param` and `process_result_value` would add two calls for each value.

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """Return what turns an aware datetime into what the database holds; None if nothing."""
        return None if dialect.name == "postgresql" else _text_or_none

    def result_processor(
        self,
        dialect: Dialect,
        coltype: object,  # noqa: ARG002  # SQLAlchemy's signature
    ) -> Callable[[Any], datetime | None]:
        """Return what turns what the database holds into an aware datetime in UTC."""
        return _in_utc if dialect.name == "postgresql" else _from_text


def _text_or_none(value: datetime | None) -> str | None:
    return None if value is None else to_text(value)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _in_utc(value: datetime | None) -> datetime | None:
    # The driver returns instants in the session's time zone.
    return None if value is None else value.astimezone(UTC)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number without loss: numeric on Postgres, its digits as text on SQLite.

    SQLite's own NUMERIC turns what it can into a binary float.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type by the database."""
        return dialect.type_descriptor(Numeric() if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Turn a Decimal into what the database holds."""
        if value is None or dialect.name == "postgresql":
            return value
        return format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002  # SQLAlchemy's signature
        """Turn what the database holds into a Decimal."""
        return None if value is None else Decimal(value)


def to_text(instant: datetime) -> str:
    """Write an aware datetime as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, the form that SQLite holds."""
    # strftime would give years before 1000 fewer digits.
    in_utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def among(
    connection: Connection, column: ColumnElement[str], values: Sequence[str]
) -> ColumnElement[bool]:
    """Return the condition that a column holds one of any number of texts: one parameter."""
    if connection.dialect.name == "sqlite":
        listed = func.json_each(json.dumps(values)).table_valued("value")
        return column.in_(select(listed.c.value))
    return column == any_(literal(list(values), ARRAY(Text)))
