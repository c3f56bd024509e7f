"""Read a file that holds a secret, a private key or its passphrase, which nobody else may read."""

import os
import re
import stat
from pathlib import Path
from typing import Literal

from exporter.config.secrecy import could_be_secret
from exporter.errors import PrivateKeyError

SecretKind = Literal["private key", "passphrase"]

_LARGEST_FILE = 64 * 1024  # bytes; an RSA key of 16384 bits in PEM takes 13 KB
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FILE_NAME = re.compile(r"[\w-]+\.(?:txt|pass|phrase|passphrase|password|pwd|secret|key|pem|conf)")


def read_secret_file(path: Path, kind: SecretKind) -> bytes:
    """Read the whole file.

    Raises:
        PrivateKeyError: it is missing, unreadable, empty, too large or open to others; the text
            says why and what to do, in one line.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise PrivateKeyError(_why_not_opened(path, kind, error)) from None
    try:
        # The checks use the open file, because a path can come to mean another file.
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise PrivateKeyError(f"{path} is a directory: name the {kind} file in it")
        if not stat.S_ISREG(status.st_mode):
            raise PrivateKeyError(f"{path} is not a regular file: name the {kind} file")
        _refuse_what_others_can_read(path, descriptor, status)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise PrivateKeyError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if not content.strip():
        raise PrivateKeyError(f"{path} is empty: put the {kind} there")
    if len(content) > _LARGEST_FILE:
        raise PrivateKeyError(
            f"{path} is larger than {_LARGEST_FILE // 1024} KiB: that is no {kind}"
        )
    return content


def _why_not_opened(path: Path, kind: SecretKind, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, PermissionError):
        return f"{path}, the {kind} file, cannot be read: {reason}{_owner(path)}"
    # A path that leads to no file may be the secret itself.
    hidden = could_be_secret(path.name)
    if kind == "passphrase":
        hidden = hidden or not _FILE_NAME.fullmatch(path.name)
    if hidden:
        key = "private_key_file" if kind == "private key" else "private_key_passphrase_file"
        return (
            f"the {kind} file cannot be read: {reason}; {key} is not shown, because it could be"
            f" the {kind} itself: it takes the path of a file"
        )
    return f"{path}, the {kind} file, cannot be read: {reason}"


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "; let this user search its directory"
    return (
        f"; it belongs to {_name(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}, and this"
        f" process runs as {_name(os.geteuid())}: change its owner, or give it mode 0440 and"
        " a group of this user"
    )


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415  # only for a file that is refused

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _refuse_what_others_can_read(path: Path, descriptor: int, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not mode & _GROUP_AND_OTHERS:
        return
    if status.st_uid == 0 and mode & _GROUP_AND_OTHERS == stat.S_IRGRP:
        return  # a secret that root gave to a service's group, and only root can give to others
    if _is_a_systemd_credential(path):
        return  # systemd protects the directory, and its access list looks like a group's mode
    advice = f"run chmod 600 {path}"
    read_only = os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
    if status.st_uid != os.geteuid():
        advice += f" as {_name(status.st_uid)}, or mode 0440 with a group of this user as root"
    if read_only or not mode & stat.S_IWUSR:
        # A mounted secret, such as Docker's, has the mode with which it was mounted.
        advice = (
            f"give it mode 0440 with the group {os.getegid()}, or mode 0400 with the user"
            f" {os.geteuid()}, where it is mounted (Docker: mode, gid and uid of the secret)"
        )
    raise PrivateKeyError(f"{path} can be read by others (mode {mode:04o}): {advice}")


def _is_a_systemd_credential(path: Path) -> bool:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        return bool(credentials) and path.resolve().is_relative_to(
            Path(credentials or "").resolve()
        )
    except (OSError, RuntimeError):  # a directory that may not be searched, or a loop of links
        return False
