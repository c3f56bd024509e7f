"""The queries of `export`: columns, rows and order of each export."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    type_coerce,
    union_all,
)

from exporter.history.schema import (
    Instant,
    accounts,
    order_group_events,
    order_group_snapshots,
    polls,
    to_text,
)
from exporter.reading import views

What = Literal["groups", "history", "changes", "polls", "gaps", "events", "triggers", "stream-gaps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query: its columns in the order of the file, its source, its condition and its order.

    Every order begins with the account, followed by the instant where there is one; for order
    groups it ends with the group's id.
    """

    columns: tuple[ColumnElement[Any], ...]
    source: FromClause
    conditions: tuple[ColumnElement[bool], ...]
    order: tuple[ColumnElement[Any], ...]


def for_dataset(query: Query, as_of: datetime | None, *, on_sqlite: bool) -> Query:
    """Extend a query to all rows of each account and day of which it has any.

    Each file of a dataset holds one account and day, and is replaced as a whole. A file of groups
    holds one instant, `as_of`, which becomes a column.
    """
    if as_of is not None:
        then = cast(literal_column(f"'{to_text(as_of)}'"), Instant).label("as_of")
        return replace(query, columns=(*query.columns, then))
    if not query.conditions:
        return query
    account, instant = query.order[:2]
    day: ColumnElement[Any] = (
        func.substr(type_coerce(instant, Text), 1, 10)
        if on_sqlite
        else func.to_char(func.timezone("UTC", instant), "YYYY-MM-DD")
    )
    some = select(account, day).select_from(query.source).where(*query.conditions)
    return replace(query, conditions=(tuple_(account, day).in_(some.correlate(None)),))


def statement(
    connection: Connection, query: Query, names: Sequence[str], group_ids: Sequence[str] = ()
) -> Select[Any]:
    """Return the statement of a query, with values as texts.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        query: the query.
        names: only these accounts; all if empty.
        group_ids: only these order groups; all if empty. Only for queries about order groups.
    """
    on_sqlite = connection.dialect.name == "sqlite"
    rows = (
        select(
            *(
                views.as_text(each, on_sqlite=on_sqlite).label(each.key or "")
                for each in query.columns
            )
        )
        .select_from(query.source)
        .where(*query.conditions)
        .order_by(*views.in_order(query.order, on_sqlite=on_sqlite))
    )
    if names:
        rows = rows.where(query.order[0].in_(names))
    if group_ids:
        rows = rows.where(query.order[-1].in_(group_ids))
    return rows


def counted(rows: Select[Any]) -> Select[Any]:
    """Return the number of rows of a statement, at a fraction of the cost of reading them."""
    return rows.order_by(None).with_only_columns(func.count(), maintain_column_froms=True)


def _groups(_since: datetime | None, _until: datetime | None) -> Query:
    """Return the state at the latest observation of each account."""
    view = views.order_groups_current
    return Query(
        columns=(*view.c, literal(1, Boolean).label("observed")),
        source=view,
        conditions=(),
        order=(view.c.account, view.c.order_group_id),
    )


def groups_at(instant: datetime, observed: Sequence[str], *, on_sqlite: bool) -> Query:
    """Return the state at an instant: the columns of `_groups`; `last_seen_at` may be later."""
    states = order_group_snapshots
    rule = (
        states.c.valid_from <= instant,
        or_(states.c.valid_to.is_(None), states.c.valid_to > instant),
    )
    keys, found = _standing_at(instant) if on_sqlite else (states, states)
    first = states.alias("first")
    first_seen_at = (
        select(func.min(first.c.valid_from, type_=Instant))
        .where(
            first.c.account == states.c.account,
            first.c.order_group_id == states.c.order_group_id,
        )
        .correlate(states)
        .scalar_subquery()
    )
    return Query(
        columns=(
            states.c.account,
            states.c.order_group_id,
            states.c.is_auto_cancel_enabled,
            states.c.contracts_limit,
            states.c.exchange_index,
            states.c.extra,
            first_seen_at.label("first_seen_at"),
            func.coalesce(states.c.last_seen_at, accounts.c.observed_at, type_=Instant).label(
                "last_seen_at"
            ),
            states.c.valid_from.label("last_changed_at"),
            case((states.c.missing_since <= instant, states.c.missing_since)).label(
                "missing_since"
            ),
            # A bare IN over no accounts would be null on Postgres.
            case((states.c.account.in_(observed), true()), else_=false()).label("observed"),
        ),
        source=found.join(accounts, accounts.c.account == states.c.account),
        conditions=() if on_sqlite else rule,
        # SQLite would otherwise scan the whole history to avoid sorting.
        order=(keys.c.account, keys.c.order_group_id),
    )


def _standing_at(instant: datetime) -> tuple[FromClause, FromClause]:
    """Return the keys of the snapshots at an instant, and the snapshots to join, fast on SQLite.

    SQLite finds the keys in covering indexes, and reads no other snapshot: see docs/queries.md.
    """
    states = order_group_snapshots
    candidates = states.alias("candidates")
    keys = [candidates.c[column.name] for column in states.primary_key]
    began = candidates.c.valid_from <= instant
    standing = union_all(
        select(*keys).where(candidates.c.valid_to > instant, began),
        select(*keys).where(candidates.c.valid_to.is_(None), began),
    ).subquery("standing")
    same = (states.c[column.name] == column for column in standing.c)
    return standing, standing.join(states, and_(*same))


def _history(since: datetime | None, until: datetime | None) -> Query:
    view = views.order_group_history
    return Query(
        columns=tuple(view.c),
        source=view,
        conditions=_overlapping(view.c.valid_from, view.c.valid_to, since, until),
        order=(view.c.account, view.c.valid_from, view.c.order_group_id),
    )


def _changes(since: datetime | None, until: datetime | None) -> Query:
    view = views.order_group_changes
    return Query(
        columns=tuple(view.c),
        source=view,
        conditions=_within(view.c.changed_at, since, until),
        order=(view.c.account, view.c.changed_at, view.c.order_group_id),
    )


def _polls(since: datetime | None, until: datetime | None) -> Query:
    return Query(
        columns=tuple(polls.c),
        source=polls,
        conditions=_within(polls.c.started_at, since, until),
        order=(polls.c.account, polls.c.started_at, polls.c.id),
    )


def _gaps(since: datetime | None, until: datetime | None) -> Query:
    view = views.coverage_gaps
    return Query(
        columns=tuple(view.c),
        source=view,
        conditions=_overlapping(view.c.gap_start, view.c.gap_end, since, until),
        order=(view.c.account, view.c.gap_start),
    )


def _events(since: datetime | None, until: datetime | None) -> Query:
    table = order_group_events
    conditions: tuple[ColumnElement[bool], ...] = ()
    if since is not None or until is not None:
        # No index begins with `occurred_at`, so the order does not use it.
        undated = (table.c.event_at.is_(None), *_within(table.c.received_at, since, until))
        conditions = (or_(and_(*_within(table.c.event_at, since, until)), and_(*undated)),)
    return Query(
        columns=tuple(column for column in table.c if column.name != "identity"),
        source=table,
        conditions=conditions,
        order=(table.c.account, table.c.occurred_at, table.c.received_at, table.c.order_group_id),
    )


def _triggers(since: datetime | None, until: datetime | None) -> Query:
    view = views.order_group_triggers
    return Query(
        columns=tuple(view.c),
        source=view,
        conditions=_within(view.c.triggered_at, since, until),
        order=(view.c.account, view.c.triggered_at, view.c.order_group_id),
    )


def _stream_gaps(since: datetime | None, until: datetime | None) -> Query:
    view = views.stream_gaps
    return Query(
        columns=tuple(view.c),
        source=view,
        conditions=_overlapping(view.c.gap_start, view.c.gap_end, since, until),
        order=(view.c.account, view.c.gap_start),
    )


def _within(
    instant: ColumnElement[Any], since: datetime | None, until: datetime | None
) -> tuple[ColumnElement[bool], ...]:
    return (
        *((instant >= since,) if since is not None else ()),
        *((instant < until,) if until is not None else ()),
    )


def _overlapping(
    start: ColumnElement[Any],
    end: ColumnElement[Any],
    since: datetime | None,
    until: datetime | None,
) -> tuple[ColumnElement[bool], ...]:
    """Return the condition that `start`, inclusive, to `end`, exclusive or null, meets a span."""
    return (
        *((or_(end.is_(None), end > since),) if since is not None else ()),
        *((start < until,) if until is not None else ()),
    )


QUERIES: dict[str, Callable[[datetime | None, datetime | None], Query]] = {
    "groups": _groups,
    "history": _history,
    "changes": _changes,
    "polls": _polls,
    "gaps": _gaps,
    "events": _events,
    "triggers": _triggers,
    "stream-gaps": _stream_gaps,
}
"""What `export` asks, but for groups as of an instant, from `since` to `until`."""
