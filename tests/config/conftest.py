"""What the tests of the configuration share."""

from pathlib import Path

import pytest

from tests.support.configuration import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)
