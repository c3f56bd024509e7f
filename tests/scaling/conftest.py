"""Databases that are partitioned by account."""

from collections.abc import Iterator

import pytest

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.store import Store
from tests.history.conftest import History
from tests.support.partitions import partition


@pytest.fixture
def partitioned_url(postgres_url: str) -> str:
    """A database with the current schema, partitioned; its SQLAlchemy URL."""
    database = Database(postgres_url)
    migrate(database)
    database.close()
    partition(postgres_url)
    return postgres_url


@pytest.fixture
def partitioned(partitioned_url: str) -> Iterator[Database]:
    """The same, opened."""
    database = Database(partitioned_url)
    yield database
    database.close()


@pytest.fixture
def history(partitioned: Database) -> History:
    """Polls of one account in it."""
    return History(partitioned, Store(partitioned, owner="first"))
