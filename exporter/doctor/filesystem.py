"""Find out whether a file lies in a git working tree or on a network file system."""

import os
import re
from pathlib import Path

# Several hosts share these file systems, or a program serves them from elsewhere. Locks there may
# be missing or hold for one host only, and shared memory never reaches another host.
_OVER_A_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs",
        "nfs", "nfs4", "orangefs", "smb3", "smbfs",
        "fuse.ceph", "fuse.curlftpfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.mount-s3",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    }
)  # fmt: skip

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # a blank is \040


def git_tree_of(path: Path) -> Path | None:
    """Return the root of the git working tree in which a file lies; None if it lies in none.

    The target of a link counts, because git keeps only the link.
    """
    # Path.exists raises where a directory may not be searched.
    return next(
        (parent for parent in path.resolve().parents if os.path.exists(parent / ".git")),  # noqa: PTH110  # Path.exists raises
        None,
    )


def network_filesystem_of(path: Path, mounts: str | None = None) -> str | None:
    """Return the network file system on which a file lies, or would lie.

    Args:
        path: the file's path; the file need not exist.
        mounts: the content of Linux's /proc/self/mountinfo; read from there if None.

    Returns:
        Its type and source, such as "nfs4 (server:/home)"; None if the file system is local or
        unknown.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
        except OSError:
            return None
    path = path.resolve()
    found = None
    longest = -1
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if not separator or len(place) < 5 or len(kind) < 2:  # noqa: PLR2004  # proc(5)'s columns
            continue
        mounted = Path(_plain(place[4]))
        # If two file systems are mounted at one place, the later one hides the earlier.
        if path.is_relative_to(mounted) and len(mounted.parts) >= longest:
            longest = len(mounted.parts)
            found = f"{kind[0]} ({_plain(kind[1])})" if kind[0].lower() in _OVER_A_NETWORK else None
    return found


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
