"""Test the errors of `exporter.errors` that have to choose their exit code."""

import errno
import os

import pytest

from exporter.errors import cannot_write


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (errno.ENOSPC, 74),
        (errno.EDQUOT, 74),
        (errno.EIO, 74),
        (errno.ENOENT, 78),
        (errno.EACCES, 78),
        (errno.EROFS, 78),
    ],
)
def test_a_full_disk_is_told_from_a_path_that_has_to_be_corrected(
    number: int, exit_code: int
) -> None:
    error = cannot_write("new.toml", OSError(number, os.strerror(number)))
    assert error.exit_code == exit_code
    assert str(error) == f"cannot write new.toml: {os.strerror(number)}"
