"""Helpers for tests that start processes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, AnyStr

if TYPE_CHECKING:
    import subprocess


def free_port() -> int:
    """Return a TCP port that nothing listens on, on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def ending(process: "subprocess.Popen[AnyStr]") -> Iterator["subprocess.Popen[AnyStr]"]:
    """Yield a process, and kill it when the block ends."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
