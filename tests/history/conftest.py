"""A migrated database of each kind, and a short way to put polls into it and to look at it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from exporter.errors import ApiError, Outcome
from exporter.history import schema
from exporter.history.database import Database
from exporter.history.head import Head
from exporter.history.migrate import migrate
from exporter.history.store import Store, Written
from exporter.model import Observation, OrderGroup, Poll

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """A database of each kind, without any tables."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A database of each kind, with the current schema."""
    migrate(empty_database)
    return empty_database


@dataclass
class History:
    """Polls of the account "main" in a database, dated in seconds after a start."""

    database: Database
    store: Store
    interval: float = 60.0
    confirm_removal: int = 2
    _digests: Iterator[int] = field(default_factory=count)

    @staticmethod
    def at(seconds: float) -> datetime:
        """The instant so many seconds after the start."""
        return START + timedelta(seconds=seconds)

    @staticmethod
    def group(group_id: str, limit: str | None = "10.00", **fields: Any) -> OrderGroup:
        """A group with a limit."""
        enabled = fields.pop("is_auto_cancel_enabled", True)
        return OrderGroup(group_id, enabled, None if limit is None else Decimal(limit), **fields)

    def poll(
        self,
        seconds: float,
        *groups: OrderGroup,
        outcome: Outcome = "ok",
        digest: str | None = None,
        decoded: bool = True,
    ) -> Poll:
        """A poll that began 2 ms before the instant, and observed the groups at it if it is ok."""
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

    def write(self, poll: Poll, head: Head | None, *, store: Store | None = None) -> Written:
        """Write a poll; as one from the spool if `head` is None."""
        return (store or self.store).write(
            poll, head=head, interval=self.interval, confirm_removal=self.confirm_removal
        )

    def observe(self, seconds: float, *groups: OrderGroup, digest: str | None = None) -> Written:
        """One whole poll that sees these groups."""
        head = self.claim(seconds - 0.003)
        return self.write(self.poll(seconds, *groups, digest=digest), head)

    def observe_the_same(self, seconds: float) -> Written:
        """One whole poll whose answer is, byte for byte, the one before."""
        head = self.claim(seconds - 0.003)
        return self.write(self.poll(seconds, digest=head.digest, decoded=False), head)

    def fail(self, seconds: float, outcome: Outcome | type[ApiError] = "timeout") -> Written:
        """One whole poll that fails."""
        name = outcome if isinstance(outcome, str) else outcome.outcome
        return self.write(self.poll(seconds, outcome=name), self.claim(seconds - 0.003))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All rows of a table or view, as Python values, sorted by their instants and ids."""
        with self.database.transaction() as connection:
            return read(connection, name)

    def row(self, name: str, **expected: Any) -> dict[str, Any]:
        """The only row of a table or view that has these values."""
        [row] = [
            row
            for row in self.rows(name)
            if all(row[column] == value for column, value in expected.items())
        ]
        return row

    def as_of(self, seconds: float) -> dict[str, Decimal | None]:
        """The groups as of an instant and their limits, by the contract's formula."""
        snapshots = schema.order_group_snapshots
        instant = self.at(seconds)
        formula = text("valid_from <= :t AND (valid_to IS NULL OR valid_to > :t)").bindparams(
            t=schema.to_text(instant) if self.database.is_sqlite else instant
        )
        with self.database.transaction() as connection:
            rows = connection.execute(
                select(snapshots.c.order_group_id, snapshots.c.contracts_limit).where(formula)
            )
            return {row.order_group_id: row.contracts_limit for row in rows}


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "contracts_limit": lambda value: None if value is None else Decimal(value),
    "is_auto_cancel_enabled": lambda value: None if value is None else bool(value),
}


def _value(column: str, value: Any) -> Any:
    """A view's value as a table's column would give it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, str) and len(value) == 27 and value[10] == "T" and value[-1] == "Z":
        return datetime.fromisoformat(value)
    return _TYPES.get(column.removeprefix("old_").removeprefix("new_"), lambda same: same)(value)


def read(connection: Connection, name: str) -> list[dict[str, Any]]:
    """All rows of a table or view, by its first three columns."""
    columns = list(connection.execute(text(f"SELECT * FROM {name} LIMIT 0")).keys())
    selected = ", ".join(
        # As text: a driver would decode JSON.
        f"CAST({column} AS text) AS {column}" if column.endswith("extra") else column
        for column in columns
    )
    rows = connection.execute(text(f"SELECT {selected} FROM {name} ORDER BY 1, 2, 3"))
    return [
        {column: _value(column, value) for column, value in row.items()} for row in rows.mappings()
    ]


@pytest.fixture
def history(database: Database) -> History:
    """Polls of one account in a database of each kind."""
    return History(database, Store(database, owner="first"))


@pytest.fixture
def history_of() -> Callable[[Database], History]:
    """Polls in a database that the test chose."""
    return lambda database: History(database, Store(database, owner="first"))
