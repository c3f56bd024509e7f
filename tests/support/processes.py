"""Processes that tests start and end, and ports for them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, AnyStr

if TYPE_CHECKING:
    import subprocess


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def ending(process: "subprocess.Popen[AnyStr]") -> Iterator["subprocess.Popen[AnyStr]"]:
    """Lend a process that does not outlive the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
