"""A database of each kind without any tables."""

from collections.abc import Iterator

import pytest

from exporter.database.database import Database


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """A database of each kind, without any tables."""
    database = Database(database_url)
    if database.path is not None:
        database.path.touch()
    yield database
    database.close()
