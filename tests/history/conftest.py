"""A migrated database of each kind, and short ways to write polls to it and to read it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from exporter.database.database import Database
from exporter.errors import ApiError, Outcome
from exporter.history import schema
from exporter.history.head import Head
from exporter.history.migrate import migrate
from exporter.history.store import Store, WriteResult
from exporter.kalshi.fields import decimal
from exporter.model import Observation, OrderGroup, Poll
from tests.support.recorder import recorder
from tests.support.traffic import Source, source_of

START = datetime(2026, 1, 1, tzinfo=UTC)

__all__ = ["recorder"]


@pytest.fixture
def database(empty_database: Database) -> Database:
    """Return a database of each kind, with the current schema."""
    migrate(empty_database)
    return empty_database


@dataclass
class History:
    """Writes and reads polls of the account "main". Times are in seconds after `START`."""

    database: Database
    store: Store
    interval: float = 60.0
    confirm_removal: int = 2
    _digests: Iterator[int] = field(default_factory=count)

    @property
    def source(self) -> Source:
        """What `rows_written` takes."""
        with self.database.connected() as connection:
            return source_of(connection)

    @staticmethod
    def at(seconds: float) -> datetime:
        """Return the instant this many seconds after `START`."""
        return START + timedelta(seconds=seconds)

    @staticmethod
    def group(group_id: str, limit: str | None = "10.00", **fields: Any) -> OrderGroup:
        """Return a group, by default with a limit."""
        enabled = fields.pop("is_auto_cancel_enabled", True)
        return OrderGroup(group_id, enabled, None if limit is None else decimal(limit), **fields)

    def poll(
        self,
        seconds: float,
        *groups: OrderGroup,
        outcome: Outcome = "ok",
        digest: str | None = None,
        decoded: bool = True,
    ) -> Poll:
        """Return a poll that started 2 ms before the instant, and saw the groups if it is ok."""
        at = self.at(seconds)
        observation = Observation(
            observed_at=at,
            digest=digest or f"digest {next(self._digests)}",
            groups={group.id: group for group in groups} if decoded else None,
        )
        return Poll(
            account="main",
            started_at=at - timedelta(milliseconds=2),
            finished_at=at + timedelta(milliseconds=1),
            outcome=outcome,
            attempts=1,
            http_status=200 if outcome == "ok" else None,
            observation=observation if outcome == "ok" else None,
        )

    def claim(self, seconds: float, *, store: Store | None = None) -> Head:
        """Read and claim the head."""
        return (store or self.store).claim("main", now=self.at(seconds), lease=1.0)

    def write(self, poll: Poll, head: Head | None, *, store: Store | None = None) -> WriteResult:
        """Write a poll; if `head` is None, as one from the spool."""
        return (store or self.store).write(
            poll, head=head, interval=self.interval, confirm_removal=self.confirm_removal
        )

    def observe(
        self, seconds: float, *groups: OrderGroup, digest: str | None = None
    ) -> WriteResult:
        """Claim, poll and write: the poll sees these groups."""
        head = self.claim(seconds - 0.003)
        return self.write(self.poll(seconds, *groups, digest=digest), head)

    def observe_the_same(self, seconds: float) -> WriteResult:
        """Claim, poll and write: the response is byte for byte the previous one."""
        head = self.claim(seconds - 0.003)
        return self.write(self.poll(seconds, digest=head.digest, decoded=False), head)

    def fail(self, seconds: float, outcome: Outcome | type[ApiError] = "timeout") -> WriteResult:
        """Claim, poll and write: the poll fails."""
        name = outcome if isinstance(outcome, str) else outcome.outcome
        return self.write(self.poll(seconds, outcome=name), self.claim(seconds - 0.003))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return all rows of a table or view, sorted by its first three columns."""
        return self.rows_of(name)[name]

    def rows_of(self, *names: str) -> dict[str, list[dict[str, Any]]]:
        """Return all rows of several tables and views, from one transaction."""
        with self.database.transaction() as connection:
            return {name: read(connection, name) for name in names}

    def row(self, name: str, **expected: Any) -> dict[str, Any]:
        """Return the only row of a table or view that has these values."""
        [row] = [
            row
            for row in self.rows(name)
            if all(row[column] == value for column, value in expected.items())
        ]
        return row

    def as_of(self, seconds: float) -> dict[str, str | None]:
        """Return the groups as of an instant, with their limits."""
        groups = self.as_of_instant(self.at(seconds))[2]
        return {group.id: group.contracts_limit for group in groups}

    def as_of_instant(self, instant: datetime) -> tuple[bool, list[str], list[OrderGroup]]:
        """Ask the tables and views about an instant.

        Returns:
            Whether it lies in a stretch of coverage, the causes of the gaps that it lies in, and
            the groups that it had.
        """
        parameters = {"t": schema.to_text(instant) if self.database.is_sqlite else instant}
        with self.database.transaction() as connection:
            covered, gaps, groups = (
                connection.execute(text(statement), parameters).all()
                for statement in (
                    "SELECT 1 FROM coverage WHERE started_at <= :t AND ended_at >= :t",
                    "SELECT cause FROM coverage_gaps WHERE gap_start < :t AND gap_end > :t",
                    (
                        "SELECT order_group_id, is_auto_cancel_enabled, contracts_limit,"
                        " exchange_index, CAST(extra AS text) FROM order_group_snapshots"
                        " WHERE valid_from <= :t AND (valid_to IS NULL OR valid_to > :t)"
                    ),
                )
            )
        return (
            bool(covered),
            [row.cause for row in gaps],
            [
                OrderGroup(name, bool(enabled), None if limit is None else str(limit), index, extra)
                for name, enabled, limit, index, extra in groups
            ],
        )


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "contracts_limit": lambda value: None if value is None else Decimal(value),
    "is_auto_cancel_enabled": lambda value: None if value is None else bool(value),
}


def _value(column: str, value: Any) -> Any:
    """Return a view's value as the type that the table's column has in Python."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, str) and len(value) == 27 and value[10] == "T" and value[-1] == "Z":
        return datetime.fromisoformat(value)
    return _TYPES.get(column.removeprefix("old_").removeprefix("new_"), lambda same: same)(value)


def read(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Return all rows of a table or view, sorted by its first three columns."""
    columns = list(connection.execute(text(f"SELECT * FROM {name} LIMIT 0")).keys())
    selected = ", ".join(
        # JSON is read as text, because a driver would decode it.
        f"CAST({column} AS text) AS {column}" if column.endswith("extra") else column
        for column in columns
    )
    order = ", ".join(map(str, range(1, min(len(columns), 3) + 1)))
    rows = connection.execute(text(f"SELECT {selected} FROM {name} ORDER BY {order}"))
    return [
        {column: _value(column, value) for column, value in row.items()} for row in rows.mappings()
    ]


@pytest.fixture
def history(database: Database) -> History:
    """Return a history in a database of each kind."""
    return History(database, Store(database, owner="first"))


@pytest.fixture
def history_of() -> Callable[[Database], History]:
    """Return a function that makes a history in any database."""
    return lambda database: History(database, Store(database, owner="first"))


# This script runs `act(database)` on copies of a file. The n-th process kills itself before its
# n-th statement or commit, until one gets to the end. The processes are forked, because starting
# Python would take longer.
_KILLED_AT_EACH = """
import itertools, os, shutil, signal, sys
from sqlalchemy import event
from exporter.database.database import Database
{imports}

{act}

def run(path, last):
    count = itertools.count(1)

    def die(*_):
        if next(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    database = Database(f"sqlite:///{{path}}")
    event.listen(database.engine, "before_cursor_execute", die)
    event.listen(database.engine, "commit", die)
    act(database)

template = sys.argv[1]
for number in itertools.count(1):
    path = f"{{template}}.{{number:02}}"
    if os.path.exists(template):
        shutil.copyfile(template, path)
    child = os.fork()
    if child == 0:
        run(path, number)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        sys.exit(code)
"""


@pytest.fixture
def killed_at_each_statement(tmp_path: Path) -> Callable[..., list[Path]]:
    """Return a function that acts on copies of a SQLite file, killed at each statement in turn.

    The function returns the copies, of which only the last was not interrupted.
    """

    def run(template: Path, imports: str, act: str) -> list[Path]:
        script = _KILLED_AT_EACH.format(imports=imports, act=act)
        subprocess.run(
            [sys.executable, "-c", script, template],
            check=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return sorted(
            path
            for path in tmp_path.iterdir()
            if path.stem == template.name and path != template and path.suffix[1:].isdigit()
        )

    return run
