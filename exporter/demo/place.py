"""The demo's directory: its database, its throw-away key and the configuration that names both.

It never touches files that are not from a demo.
"""

import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from exporter.errors import ConfigurationError

ACCOUNT = "demo"
INTERVAL = 1.0
"""Seconds between polls."""

# This text marks the directories of earlier demos too, so it must not change.
_MARK = "# Made by `kalshi-exporter demo`, which writes it anew each time that it runs here."
_KEY = "demo-key.pem"
_DATABASE = "order_groups.db"

_CONFIGURATION = f"""{_MARK}
# The exchange at base_url is there only while the demo runs.

[database]
url = "sqlite:///{_DATABASE}"

[poll]
interval = "{INTERVAL:g}s"
deadline = "3s"
max_attempts = 2

[[accounts]]
name = "{ACCOUNT}"
base_url = "{{base_url}}"
key_id = "{{key_id}}"
private_key_file = "{_KEY}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The directory in which a demo keeps its files.

    Attributes:
        directory: the absolute path, which exists.
        used_before: whether it holds the history of an earlier demo, which this one continues.
    """

    directory: Path
    used_before: bool

    @property
    def configuration(self) -> Path:
        """Return the path of the configuration file, for `--config`."""
        return self.directory / "config.toml"

    @property
    def database(self) -> Path:
        """Return the path of SQLite's file."""
        return self.directory / _DATABASE

    def furnish(self, base_url: str) -> tuple[str, rsa.RSAPublicKey]:
        """Write a new key, and a configuration that uses it.

        Args:
            base_url: the exchange's base URL.

        Returns:
            The key's id and its public half, for the exchange.

        Raises:
            ConfigurationError: the directory cannot be written.
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key_id = str(uuid.uuid4())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        text = _CONFIGURATION.format(base_url=base_url, key_id=key_id)
        # The configuration comes first, because its mark shows that the other files are a demo's.
        _write(self.configuration, text.encode())
        _write(self.directory / _KEY, pem)
        return key_id, key.public_key()


def find_place(directory: Path | None) -> Place:
    """Make or check the directory of a demo.

    Args:
        directory: None for a fresh temporary one.

    Raises:
        ConfigurationError: it cannot be created, or holds other files with a demo's names.
    """
    if directory is None:
        try:
            made = tempfile.mkdtemp(prefix="kalshi-demo-")
        except OSError as error:
            raise ConfigurationError(
                f"cannot make a temporary directory: {error.strerror}; name a --directory"
            ) from error
        return Place(directory=Path(made), used_before=False)
    if not os.fsencode(directory).isascii() and not str(directory).isprintable():
        raise ConfigurationError("a --directory needs a name of printable UTF-8 text")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        place = Place(directory=directory.absolute(), used_before=False)
        if _is_ours(place.configuration):
            return Place(directory=place.directory, used_before=place.database.exists())
        for path in (place.configuration, place.directory / _KEY, place.database):
            if path.exists():
                raise ConfigurationError(
                    f"{path} is not from a demo, and is left as it is: choose another --directory"
                )
    except OSError as error:
        raise _unusable(directory, error) from error
    return place


@contextmanager
def occupied(place: Place) -> Iterator[None]:
    """Keep other demos out of a directory: two would record two exchanges as one account.

    Raises:
        ConfigurationError: another demo is running there.
    """
    # A lock on the directory itself leaves no file behind, and ends with the process.
    descriptor = os.open(place.directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another demo is running in {place.directory}: name another --directory"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _is_ours(configuration: Path) -> bool:
    try:
        with configuration.open("rb") as file:
            return file.readline().rstrip() == _MARK.encode()
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot write {path}: {error.strerror}; name another --directory, or none for a fresh one"
    )
