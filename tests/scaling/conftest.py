"""Share databases that are partitioned by account with the tests of scaling."""

from collections.abc import Iterator

import pytest

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.store import Store
from tests.history.conftest import History
from tests.support.partitions import partition


@pytest.fixture
def partitioned_url(postgres_url: str) -> str:
    """Return the SQLAlchemy URL of a partitioned database with the current schema."""
    database = Database(postgres_url)
    migrate(database)
    database.close()
    partition(postgres_url)
    return postgres_url


@pytest.fixture
def partitioned(partitioned_url: str) -> Iterator[Database]:
    """Yield a connection to the partitioned database."""
    database = Database(partitioned_url)
    yield database
    database.close()


@pytest.fixture
def history(partitioned: Database) -> History:
    """Return a history of one account in the partitioned database."""
    return History(partitioned, Store(partitioned, owner="first"))
