"""The fixture that the database tests share."""

from collections.abc import Iterator

import pytest

from exporter.database.database import Database


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """Yield a database of each kind, without any tables."""
    database = Database(database_url)
    if database.path is not None:
        database.path.touch()
    yield database
    database.close()
