"""Processes that tests start, and end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, AnyStr

if TYPE_CHECKING:
    import subprocess


@contextmanager
def ending(process: "subprocess.Popen[AnyStr]") -> Iterator["subprocess.Popen[AnyStr]"]:
    """Give a process that does not outlive the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
