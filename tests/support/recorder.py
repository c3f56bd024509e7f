"""Writes polls through the exporter's own store, for tests that read the history."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from exporter.database.database import Database
from exporter.history.migrate import ensure_current
from exporter.history.store import Store
from exporter.model import Observation, OrderGroup, Poll

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


class Recorder:
    """Writes polls into one database. Their times are given in seconds since `START`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        ensure_current(self.database, auto_migrate=True)
        self.store = Store(self.database, owner="test")

    @staticmethod
    def at(seconds: float) -> datetime:
        """Return the instant this many seconds after `START`."""
        return START + timedelta(seconds=seconds)

    def ok(
        self, seconds: float, groups: Iterable[OrderGroup], *, account: str = "main", **how: int
    ) -> None:
        """Write a poll that saw these groups at `seconds`, which becomes `observed_at`."""
        states = {group.id: group for group in groups}
        observation = Observation(
            observed_at=self.at(seconds),
            digest=str(sorted(map(repr, states.values()))),
            groups=states,
        )
        self._write(seconds, account, "ok", observation, how)

    def fail(
        self, seconds: float, outcome: str = "unreachable", *, account: str = "main", **how: int
    ) -> None:
        """Write a poll that failed."""
        self._write(seconds, account, outcome, None, how)

    def _write(
        self,
        seconds: float,
        account: str,
        outcome: str,
        observation: Observation | None,
        how: dict[str, int],
    ) -> None:
        at = self.at(seconds)
        poll = Poll(
            account=account,
            started_at=at - timedelta(milliseconds=200),
            finished_at=at,
            outcome=outcome,  # type: ignore[arg-type]  # tests pass one of the literals
            attempts=1,
            http_status=200 if observation else None,
            error_code=None if observation else "E1",
            error_message=None if observation else 'said "no", twice',
            observation=observation,
        )
        head = self.store.claim(account, now=at, lease=5.0)
        self.store.write(
            poll,
            head=head,
            interval=how.get("interval", 60),
            confirm_removal=how.get("confirm_removal", 2),
        )


@pytest.fixture
def recorder(database_url: str) -> Iterator[Recorder]:
    """Yield a recorder for a fresh database of each kind."""
    recorder = Recorder(database_url)
    with closing(recorder.database):
        yield recorder


@pytest.fixture
def sqlite_recorder(sqlite_url: str) -> Iterator[Recorder]:
    """Yield a recorder for a fresh SQLite database."""
    recorder = Recorder(sqlite_url)
    with closing(recorder.database):
        yield recorder


@pytest.fixture
def two_recorders(sqlite_recorder: Recorder, postgres_url: str) -> Iterator[tuple[Recorder, ...]]:
    """Yield a recorder for SQLite and one for Postgres, to write the same polls to both."""
    other = Recorder(postgres_url)
    with closing(other.database):
        yield sqlite_recorder, other
