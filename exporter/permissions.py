"""Say why a file cannot be used, and how to mend it: its owner, its mode, and this process's user.

The system's own messages name no cause: SQLite says "unable to open database file" for a missing
directory, a missing permission and too many open files alike.
"""

import os
import pwd
import stat
from pathlib import Path

_SMALL_FILE = 64 * 1024  # bytes; SQLite's index takes 32 KiB

_EFFECTIVE = os.access in os.supports_effective_ids


def is_missing(path: Path) -> bool:
    """Return whether there is nothing at a path.

    `Path.exists()` raises PermissionError before Python 3.14, and later returns False.

    Raises:
        OSError: it is unknown, because a directory on the way may not be entered.
    """
    try:
        os.stat(path)  # noqa: PTH116  # each poll asks, and `Path.stat` takes twice as long
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def is_full(path: Path) -> bool:
    """Return whether the file system of an existing file has no room for another small one."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return not status.f_flag & os.ST_RDONLY and status.f_bavail * status.f_frsize < _SMALL_FILE


def real_path(path: Path) -> Path:
    """Return where a path leads, whether or not there is anything.

    `Path.resolve()` raises RuntimeError for a loop of links before Python 3.13.
    """
    return Path(os.path.realpath(path))


def explain_file(path: Path, *, write: bool) -> str | None:
    """Return why a file cannot be opened, and what to do; None if nothing is found.

    Args:
        path: of a file that should be there.
        write: whether it must be writable.
    """
    reason = explain_directory(path.parent, write=False)
    if reason is not None:
        return reason
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{path} does not exist"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return f"{path} is a directory: name a file in it"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file: name another"
    return _explain_access(path, status, os.R_OK | (os.W_OK if write else 0))


def explain_directory(path: Path, *, write: bool) -> str | None:
    """Return why files in a directory cannot be used, and what to do; None if nothing is found.

    Args:
        path: of a directory that should be there.
        write: whether files are to be created in it.
    """
    path = path.absolute()
    for directory in (*reversed(path.parents), path):
        try:
            status = directory.stat()
        except FileNotFoundError:
            return f"the directory {directory} does not exist: create it, or correct the path"
        except OSError as error:
            return f"{directory}: {error.strerror}"
        if not stat.S_ISDIR(status.st_mode):
            return f"{directory} is not a directory: correct the path"
        wanted = os.X_OK | (os.W_OK if write and directory == path else 0)
        reason = _explain_access(directory, status, wanted)
        if reason is not None:
            return reason
    return None


def explain_place(path: Path) -> str | None:
    """Return why no files can be created in a directory, which may itself be created first.

    Args:
        path: of the directory.
    """
    for directory in (path, *path.absolute().parents):
        try:
            if is_missing(directory):
                continue
        except OSError:
            pass
        return explain_directory(directory, write=True)
    return None


def _explain_access(path: Path, status: os.stat_result, wanted: int) -> str | None:
    if os.access(path, wanted, effective_ids=_EFFECTIVE):
        return None
    if wanted & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} lies on a read-only file system: mount it writable, or use another path"
    is_directory = stat.S_ISDIR(status.st_mode)
    missing = [
        verb
        for flag, verb in (
            (os.X_OK, "entered"),
            (os.R_OK, "read"),
            (os.W_OK, "written to" if is_directory else "written"),
        )
        if wanted & flag and not os.access(path, flag, effective_ids=_EFFECTIVE)
    ]
    owner, us = _name_of(status.st_uid), _name_of(os.geteuid())
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    what = "the directory " if is_directory else ""
    said = f"{what}{path} may not be {' or '.join(missing)} by {us}: it belongs to {owner}"
    if status.st_uid == os.geteuid():
        bits = "u+rwx" if is_directory else "u+rw"
        return f"{said} and its mode is {mode}: chmod {bits} {path}"
    return f"{said}, mode {mode}: chown {us} {path}, or run the exporter as {owner}"


def _name_of(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:  # a user without a name, as in containers
        return f"user {user_id}"
