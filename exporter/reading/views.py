"""The views that people read, as `export` and `status` name their columns; `migrations/` make them.

A column's type says what it holds; `as_text` converts it, inside the database, into a text that is
the same on both databases.
"""

from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    TableClause,
    Text,
    UnaryExpression,
    case,
    cast,
    column,
    func,
    not_,
    table,
    type_coerce,
)
from sqlalchemy.sql.operators import custom_op

from exporter.history.schema import ExactDecimal, Instant

Kind = Literal["text", "instant", "boolean", "decimal", "integer", "seconds", "json"]


def _view(name: str, **types: type) -> TableClause:
    return table(name, *(column(key, kind) for key, kind in types.items()))


order_groups_current = _view(
    "order_groups_current",
    account=Text,
    order_group_id=Text,
    is_auto_cancel_enabled=Boolean,
    contracts_limit=ExactDecimal,
    exchange_index=Integer,
    extra=JSON,
    first_seen_at=Instant,
    last_seen_at=Instant,
    last_changed_at=Instant,
    missing_since=Instant,
)

order_group_history = _view(
    "order_group_history",
    account=Text,
    order_group_id=Text,
    valid_from=Instant,
    valid_to=Instant,
    is_auto_cancel_enabled=Boolean,
    contracts_limit=ExactDecimal,
    exchange_index=Integer,
    extra=JSON,
    not_before=Instant,
    missing_since=Instant,
    last_seen_at=Instant,
    end_reason=Text,
    duration_seconds=Float,
    first_poll_id=Integer,
    last_poll_id=Integer,
)

order_group_changes = _view(
    "order_group_changes",
    account=Text,
    order_group_id=Text,
    changed_at=Instant,
    not_before=Instant,
    change=Text,
    old_is_auto_cancel_enabled=Boolean,
    new_is_auto_cancel_enabled=Boolean,
    old_contracts_limit=ExactDecimal,
    new_contracts_limit=ExactDecimal,
    old_exchange_index=Integer,
    new_exchange_index=Integer,
    old_extra=JSON,
    new_extra=JSON,
    event_at=Instant,
)

order_group_triggers = _view(
    "order_group_triggers",
    account=Text,
    order_group_id=Text,
    triggered_at=Instant,
    not_before=Instant,
    ended_at=Instant,
    ended_by=Text,
    contracts_limit=ExactDecimal,
    evidence=Text,
)

stream_gaps = _view(
    "stream_gaps",
    account=Text,
    gap_start=Instant,
    gap_end=Instant,
    seconds=Float,
    cause=Text,
)

coverage_gaps = _view(
    "coverage_gaps",
    account=Text,
    gap_start=Instant,
    gap_end=Instant,
    seconds=Float,
    cause=Text,
)

_KINDS: tuple[tuple[type, Kind], ...] = (
    (Instant, "instant"),
    (ExactDecimal, "decimal"),
    (JSON, "json"),
    (Boolean, "boolean"),
    (Integer, "integer"),
    (Float, "seconds"),
)


def kind_of(expression: ColumnElement[Any]) -> Kind:
    """Return what a column holds."""
    for type_, kind in _KINDS:
        if isinstance(expression.type, type_):
            return kind
    return "text"


def as_text(expression: ColumnElement[Any], *, on_sqlite: bool) -> ColumnElement[Any]:
    """Return a column in the form of exports, converted by the database; integers stay integers.

    Instants are `YYYY-MM-DDTHH:MM:SS.ffffffZ`, booleans `true` and `false`, decimals their digits,
    seconds have six decimals, JSON is as it was stored.
    """
    kind = kind_of(expression)
    if kind in {"text", "integer"}:
        return expression
    if kind == "boolean":
        truth = type_coerce(expression, Boolean)
        return case((truth, "true"), (not_(truth), "false"))
    if on_sqlite:  # where the rest is such text already
        return (
            func.printf("%.6f", expression) if kind == "seconds" else type_coerce(expression, Text)
        )
    if kind == "instant":
        return func.to_char(func.timezone("UTC", expression), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    return cast(cast(expression, Numeric(30, 6)) if kind == "seconds" else expression, Text)


def unindexed(expression: ColumnElement[Any], *, on_sqlite: bool) -> ColumnElement[Any]:
    """Return a column in a form for which SQLite uses no index; Postgres needs no such hint."""
    if not on_sqlite:
        return expression
    return UnaryExpression(expression, operator=custom_op("+"), type_=expression.type)


def in_order(
    expressions: tuple[ColumnElement[Any], ...], *, on_sqlite: bool
) -> list[ColumnElement[Any]]:
    """Return sort keys that give the same order on both databases, whatever their locale."""
    keys: list[ColumnElement[Any]] = []
    for each in expressions:
        by_locale = kind_of(each) == "text" and not on_sqlite
        keys.append(each.collate("C") if by_locale else each)  # by code point
    return keys
