"""Exports the history as files: one query, streamed from the database into one format.

Memory stays the same however long the history is: the database makes the texts, and a few
thousand rows at a time go through here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    and_,
    case,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from exporter.history.schema import Instant, accounts, order_group_snapshots, polls
from exporter.reading import views
from exporter.reading.connect import snapshot
from exporter.reading.coverage import coverage_at
from exporter.reading.formats import FORMATS, Column
from exporter.reading.output import opened

What = Literal["groups", "history", "changes", "polls", "gaps"]

_ROWS_AT_ONCE = 5_000
_ROWS_IN_A_GROUP = 20_000  # of Parquet's: the longer, the better compressed, and the more memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did.

    Attributes:
        rows: how many were written.
        notices: one line each about what the rows alone could not say; for stderr.
    """

    rows: int
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """Columns in the order of the file, where from, which rows, in what order."""

    columns: tuple[ColumnElement[Any], ...]
    source: FromClause
    conditions: tuple[ColumnElement[bool], ...]
    order: tuple[ColumnElement[Any], ...]


def export(
    url: str,
    what: What,
    *,
    as_of: datetime | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    account_names: Sequence[str] = (),
    file_format: str = "csv",
    output: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write a part of the history as one file.

    Args:
        url: the database, as the configuration names it.
        what: `groups`, the state at an instant; `history`, every state; or `changes`, `polls`,
            `gaps`.
        as_of: for `groups`, the instant; None for the latest observation of each account.
        since: only what was valid, happened or lasted at this instant or later; not for `groups`.
        until: the same, before this instant.
        account_names: only these accounts; all that are recorded if empty.
        file_format: a key of `exporter.reading.formats.FORMATS`.
        output: a file to make or replace; None for standard output.
        progress: called with the number of rows written so far, now and then.

    Raises:
        ValueError: the arguments do not go together; its message is for who gave them.
        ConfigurationError: there is no database, or the format needs what is not installed.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed.
        OutputError: the file cannot be written.
    """
    _refuse_contradictions(what, as_of, since, until)
    notices: tuple[str, ...] = ()
    rows = 0
    # The snapshot ends first: a file takes its place only if all of it could be relied on.
    with opened(output) as sink, snapshot(url) as connection:
        if as_of is None:
            query = _QUERIES[what](since, until)
            notices = _unknown(connection, account_names)
        else:
            covered = coverage_at(connection, as_of, account_names)
            on_sqlite = connection.dialect.name == "sqlite"
            query = _groups_at(as_of, covered.observed, on_sqlite=on_sqlite)
            notices = covered.notices
        columns = [Column(each.key or "", views.kind_of(each)) for each in query.columns]
        writer = FORMATS[file_format](columns, sink)
        size = _ROWS_IN_A_GROUP if file_format == "parquet" else _ROWS_AT_ONCE
        statement = _statement(connection, query, account_names)
        try:
            result = connection.execute(statement, execution_options={"yield_per": size})
            for part in result.partitions():
                writer.write(part)
                rows += len(part)
                if progress is not None:
                    progress(rows)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    return Exported(rows=rows, notices=notices)


def _refuse_contradictions(
    what: What, as_of: datetime | None, since: datetime | None, until: datetime | None
) -> None:
    if as_of is not None and what != "groups":
        raise ValueError(f"--as-of belongs to `export groups`; {what} take --since and --until")
    if what == "groups" and (since is not None or until is not None):
        raise ValueError("groups are of one instant: use --as-of, or `export history`")
    if since is not None and until is not None and since >= until:
        raise ValueError("--since must be before --until")


def _unknown(connection: Connection, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    known = set(connection.scalars(select(accounts.c.account).where(accounts.c.account.in_(names))))
    return tuple(f"{name}: nothing is recorded" for name in sorted(set(names) - known))


def _statement(connection: Connection, query: _Query, names: Sequence[str]) -> Executable:
    on_sqlite = connection.dialect.name == "sqlite"
    statement = (
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
    # Every order begins with the account.
    return statement.where(query.order[0].in_(names)) if names else statement


def _groups(_since: datetime | None, _until: datetime | None) -> _Query:
    """The latest observation of each account, at which it was observed by definition."""
    view = views.order_groups_current
    return _Query(
        columns=(*view.c, literal(1, Boolean).label("observed")),
        source=view,
        conditions=(),
        order=(view.c.account, view.c.order_group_id),
    )


def _groups_at(instant: datetime, observed: Sequence[str], *, on_sqlite: bool) -> _Query:
    """The state at an instant: the columns of `_groups`, `last_seen_at` with hindsight."""
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
    return _Query(
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
            # Not the bare IN: of no accounts at all, it is null on Postgres.
            case((states.c.account.in_(observed), true()), else_=false()).label("observed"),
        ),
        source=found.join(accounts, accounts.c.account == states.c.account),
        conditions=() if on_sqlite else rule,
        # SQLite would scan the history to spare itself the sorting of anything but the keys.
        order=(keys.c.account, keys.c.order_group_id),
    )


def _standing_at(instant: datetime) -> tuple[FromClause, FromClause]:
    """The keys of the snapshots at an instant, in the form that SQLite answers fast; the snapshots.

    It finds their keys by `valid_to`, in indexes that hold the whole key, because of the sign
    before `valid_from`; see docs/queries.md.
    """
    states = order_group_snapshots
    candidates = states.alias("candidates")
    keys = [candidates.c[column.name] for column in states.primary_key]
    began = literal_column("+candidates.valid_from", Instant) <= instant
    standing = union_all(
        select(*keys).where(candidates.c.valid_to > instant, began),
        select(*keys).where(candidates.c.valid_to.is_(None), began),
    ).subquery("standing")
    same = (states.c[column.name] == column for column in standing.c)
    return standing, standing.join(states, and_(*same))


def _history(since: datetime | None, until: datetime | None) -> _Query:
    view = views.order_group_history
    return _Query(
        columns=tuple(view.c),
        source=view,
        conditions=_overlapping(view.c.valid_from, view.c.valid_to, since, until),
        order=(view.c.account, view.c.valid_from, view.c.order_group_id),
    )


def _changes(since: datetime | None, until: datetime | None) -> _Query:
    view = views.order_group_changes
    return _Query(
        columns=tuple(view.c),
        source=view,
        conditions=_within(view.c.changed_at, since, until),
        order=(view.c.account, view.c.changed_at, view.c.order_group_id),
    )


def _polls(since: datetime | None, until: datetime | None) -> _Query:
    return _Query(
        columns=tuple(polls.c),
        source=polls,
        conditions=_within(polls.c.started_at, since, until),
        order=(polls.c.account, polls.c.started_at, polls.c.id),
    )


def _gaps(since: datetime | None, until: datetime | None) -> _Query:
    view = views.coverage_gaps
    return _Query(
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
    """What lasts from `start`, inclusive, to `end`, exclusive or null, has to do with a span."""
    return (
        *((or_(end.is_(None), end > since),) if since is not None else ()),
        *((start < until,) if until is not None else ()),
    )


_QUERIES: dict[str, Callable[[datetime | None, datetime | None], _Query]] = {
    "groups": _groups,
    "history": _history,
    "changes": _changes,
    "polls": _polls,
    "gaps": _gaps,
}
