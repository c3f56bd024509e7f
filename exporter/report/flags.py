"""The changes of `is_auto_cancel_enabled` to true: triggers, where no event tells of them."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, exists, or_, select

from exporter.history.schema import order_group_events, order_group_snapshots


def before_and_after() -> tuple[FromClause, FromClause]:
    """Return the states before and after a change, to select from."""
    return order_group_snapshots.alias("p"), order_group_snapshots.alias("s")


def flagged(account: str, before: FromClause, after: FromClause) -> Select[Any]:
    """Return the changes of the flag from false to true in groups without events, no columns."""
    events = order_group_events
    named = exists().where(
        events.c.account == before.c.account,
        events.c.order_group_id == before.c.order_group_id,
    )
    return (
        select()
        .select_from(before.join(after, _follows(after, before)))
        .where(
            before.c.account == account,
            before.c.end_reason == "changed",
            ~before.c.is_auto_cancel_enabled,
            after.c.is_auto_cancel_enabled,
            ~named,
        )
    )


def _follows(state: FromClause, earlier: FromClause) -> ColumnElement[bool]:
    return and_(
        state.c.account == earlier.c.account,
        state.c.order_group_id == earlier.c.order_group_id,
        state.c.valid_from == earlier.c.valid_to,
    )


def end_of(after: FromClause) -> ColumnElement[datetime | None]:
    """Return SQL for the end of the trigger that a state began: its reset, or its removal."""
    last, other = (order_group_snapshots.alias(name) for name in "xy")
    is_reset = exists().where(_follows(other, last), ~other.c.is_auto_cancel_enabled)
    return (
        select(last.c.valid_to)
        .where(
            last.c.account == after.c.account,
            last.c.order_group_id == after.c.order_group_id,
            last.c.valid_from >= after.c.valid_from,
            or_(last.c.end_reason == "removed", is_reset),
        )
        .order_by(last.c.valid_from)
        .limit(1)
        .scalar_subquery()
    )
