"""Name this process to other exporters, and tell whether a named process has ended."""

import hashlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path

_PARTS = 4


def this_process() -> str:
    """Return a new name for this process: `host:pid:scope:random`.

    The scope stands for the machine's boot and the process's namespace, because process ids are
    unique only within these.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_scope()}:{uuid.uuid4().hex[:8]}"


def short_name(claimant: str) -> str:
    """Return the part of a name that identifies the process to a person: `host:pid`."""
    return ":".join(claimant.split(":")[:2])


def is_gone(claimant: str) -> bool:
    """Return whether a claimant was a process of this host that has certainly ended."""
    parts = claimant.rsplit(":", _PARTS - 1)
    if len(parts) != _PARTS or parts[0] != socket.gethostname() or parts[2] != _scope():
        return False
    if not parts[1].isascii() or not parts[1].isdigit() or int(parts[1]) == os.getpid():
        # A claim under this process's own id may be another object's of this process.
        return False
    try:
        os.kill(int(parts[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        return False
    return False


@cache
def _scope() -> str:
    """Return an identifier of this boot of this machine and this namespace of process ids.

    Two containers may have the same host name, and each has its own process 1.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:  # not Linux, which alone has such namespaces
        return "host"
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]
