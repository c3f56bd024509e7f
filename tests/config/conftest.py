"""The fixture that the configuration tests share."""

from pathlib import Path

import pytest

from tests.support.configuration import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Return a fresh directory to write configurations into."""
    return Directory(tmp_path)
