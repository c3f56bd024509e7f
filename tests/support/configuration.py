"""A directory with a configuration in it, for tests of what is read and refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.config.keys import ACCOUNT, SECTIONS, Key
from exporter.config.load import load
from exporter.config.model import Configuration
from exporter.errors import ConfigurationError

ACCOUNT_TOML = """
[[accounts]]
name = "main"
environment = "demo"
key_id = "0123456789abcdef"
private_key_file = "kalshi.pem"
"""


class Directory:
    """A directory with a configuration in it, and an environment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: dict[str, str] = {}

    def load(self, text: str, *, account: str = ACCOUNT_TOML) -> Configuration:
        """What this text and these accounts say."""
        file = self.path / "config.toml"
        file.write_text(text + account, encoding="utf-8")
        return load(file, self.environment)

    def faults(self, text: str, *, account: str = ACCOUNT_TOML) -> list[str]:
        """What is wrong with them, each on one line, without the file's path."""
        with pytest.raises(ConfigurationError) as caught:
            self.load(text, account=account)
        faults = caught.value.faults
        assert all(fault.isprintable() for fault in faults)
        start = f"{self.path / 'config.toml'}:"
        assert all(fault.startswith(start) for fault in faults)
        return [fault.removeprefix(start) for fault in faults]

    def fault(self, text: str, *, account: str = ACCOUNT_TOML) -> str:
        """The only thing that is wrong with them."""
        (fault,) = self.faults(text, account=account)
        return fault


def described_keys() -> Iterator[tuple[str, Key]]:
    """Every key with its section."""
    for section, keys in SECTIONS.items():
        for key in keys:
            yield section, key
    for key in ACCOUNT:
        yield "accounts", key
