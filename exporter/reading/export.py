"""Export the history as files: one query, streamed from the database into one format.

Memory use does not depend on the length of the history: the database formats the values as text,
and a few thousand rows at a time pass through this process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, select

from exporter.history.schema import accounts, order_group_snapshots
from exporter.reading import views
from exporter.reading.connect import read_only_transaction
from exporter.reading.coverage import coverage_at, stale
from exporter.reading.dataset import Dataset, staged
from exporter.reading.formats import FORMATS, Column, Writer
from exporter.reading.output import opened
from exporter.reading.queries import QUERIES, What, counted, for_dataset, groups_at, statement
from exporter.reading.stream_status import unheard

_ROWS_AT_ONCE = 5_000
_ROWS_IN_A_GROUP = 20_000  # of Parquet's: the longer, the better compressed, and the more memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The result of an export.

    Attributes:
        rows: how many were written.
        notices: lines for stderr about facts that the rows cannot show.
    """

    rows: int
    notices: tuple[str, ...]


def export(
    url: str,
    what: What,
    *,
    as_of: datetime | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    account_names: Sequence[str] = (),
    group_ids: Sequence[str] = (),
    file_format: str = "csv",
    output: Path | None = None,
    dataset: bool = False,
    intervals: Mapping[str, float] | None = None,
    now: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a part of the history as one file.

    Args:
        url: the database, as the configuration names it.
        what: `groups`, the state at an instant; `history`, every state; or `changes`, `polls`,
            `gaps`, `events`, `triggers`, `stream-gaps`.
        as_of: for `groups`, the instant; None for the latest observation of each account.
        since: only what was valid, happened or lasted at this instant or later; not for `groups`.
        until: the same, before this instant.
        account_names: only these accounts; all that are recorded if empty.
        group_ids: only these order groups; all if empty. Neither for `polls` and gaps, nor for a
            dataset, whose files are always whole.
        file_format: a key of `exporter.reading.formats.FORMATS`.
        output: a file to make or replace; None for standard output.
        dataset: `output` is a directory, for Parquet files by account and day; see
            `exporter.reading.dataset`. The days that `since` and `until` touch are written whole.
        intervals: seconds between the polls of each configured account; a notice says which
            accounts were not observed recently enough for theirs, or are not listened to: no row
            holds a gap that has not ended.
        now: the present instant; if None, nothing is old.
        progress: called now and then with the number of rows written so far, and that of all.

    Raises:
        ValueError: the arguments do not go together; the message is for the user who gave them.
        ConfigurationError: there is no database, or the format needs what is not installed.
        SchemaError: nothing is recorded yet, or the schema is another version's.
        DatabaseError: the database failed.
        OutputError: the file cannot be written.
    """
    _refuse_contradictions(what, as_of, since, until)
    _refuse_groups(what, group_ids, dataset=dataset)
    if dataset:
        _refuse_as_dataset(what, as_of, file_format, output)
    # The snapshot ends first, because its end may show that the rows were not consistent; only
    # then does the file take its place.
    with (
        _destination(what, as_of, file_format, output, dataset=dataset) as make,
        read_only_transaction(url) as connection,
    ):
        on_sqlite = connection.dialect.name == "sqlite"
        if as_of is None:
            query = QUERIES[what](since, until)
            notices = _unknown(connection, account_names)
            if now is not None and (what == "groups" or (what == "gaps" and until is None)):
                notices += stale(connection, now, account_names, intervals or {})
            if now is not None and what in {"events", "triggers", "stream-gaps"}:
                notices += unheard(connection, now, until, account_names)
        else:
            covered = coverage_at(connection, as_of, account_names)
            query = groups_at(as_of, covered.observed, on_sqlite=on_sqlite)
            notices = covered.notices
        if dataset:
            query = for_dataset(query, as_of, on_sqlite=on_sqlite)
        columns = [Column(each.key or "", views.kind_of(each)) for each in query.columns]
        notices += _unknown_groups(connection, group_ids, account_names)
        asked = statement(connection, query, account_names, group_ids)
        size = _ROWS_IN_A_GROUP if file_format == "parquet" else _ROWS_AT_ONCE
        rows = _pour(connection, asked, make(columns), size, progress)
    return Exported(rows=rows, notices=notices)


def _pour(
    connection: Connection,
    asked: Select[Any],
    writer: Writer,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write the rows of a statement in batches of `size`; return how many there were."""
    rows = total = 0
    try:
        if progress is not None:
            total = connection.execute(counted(asked)).scalar_one()
            progress(0, total)
        result = connection.execute(asked, execution_options={"yield_per": size})
        for part in result.partitions():
            writer.write(part)
            rows += len(part)
            if progress is not None:
                progress(rows, total)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return rows


@contextmanager
def _destination(
    what: What, as_of: datetime | None, file_format: str, output: Path | None, *, dataset: bool
) -> Iterator[Callable[[Sequence[Column]], Writer]]:
    if dataset and output is not None:
        with staged(output, what) as stage:
            yield lambda columns: Dataset(columns, stage, what, as_of)
    else:
        with opened(output) as sink:
            yield lambda columns: FORMATS[file_format](columns, sink)


def _refuse_groups(what: What, group_ids: Sequence[str], *, dataset: bool) -> None:
    if group_ids and what in {"polls", "gaps", "stream-gaps"}:
        raise ValueError(f"--group selects order groups; {what} are an account's")
    if group_ids and dataset:
        raise ValueError("--group makes one file; those of a directory hold all groups")


def _refuse_as_dataset(
    what: What, as_of: datetime | None, file_format: str, output: Path | None
) -> None:
    if output is None or file_format != "parquet":
        raise ValueError("a directory takes --format parquet; csv and jsonl make one file")
    if what == "groups" and as_of is None:
        raise ValueError("groups in a directory are each of an instant: say --as-of")


def _refuse_contradictions(
    what: What, as_of: datetime | None, since: datetime | None, until: datetime | None
) -> None:
    if as_of is not None and what != "groups":
        raise ValueError(
            f"--as-of belongs to `export groups`; `export {what}` takes --since and --until"
        )
    if what == "groups" and (since is not None or until is not None):
        raise ValueError("groups are of one instant: use --as-of, or `export history`")
    if since is not None and until is not None and since >= until:
        raise ValueError("--since must be before --until")


def _unknown(connection: Connection, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    known = set(connection.scalars(select(accounts.c.account).where(accounts.c.account.in_(names))))
    return tuple(f"{name}: nothing is recorded" for name in sorted(set(names) - known))


def _unknown_groups(
    connection: Connection, group_ids: Sequence[str], names: Sequence[str]
) -> tuple[str, ...]:
    """Return a notice for each group that no poll of the accounts has ever seen."""
    if not group_ids:
        return ()
    states = order_group_snapshots
    known = set(
        connection.scalars(
            select(states.c.order_group_id)
            .where(
                # Keys begin with the account.
                states.c.account.in_(names or select(accounts.c.account)),
                states.c.order_group_id.in_(group_ids),
            )
            .distinct()
        )
    )
    where = f" of {', '.join(names)}" if names else ""
    unknown = sorted(set(group_ids) - known)
    return tuple(f"{group_id}: no poll{where} has seen this order group" for group_id in unknown)


__all__ = ["Exported", "What", "export"]
