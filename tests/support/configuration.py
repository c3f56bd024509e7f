"""A directory with a configuration, for tests of which configurations are accepted."""

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
    """A directory with a configuration, and the environment variables to load it with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: dict[str, str] = {}

    def load(self, text: str, *, account: str = ACCOUNT_TOML) -> Configuration:
        """Write the text and the accounts as `config.toml`, and return the loaded configuration."""
        file = self.path / "config.toml"
        file.write_text(text + account, encoding="utf-8")
        return load(file, self.environment)

    def faults(self, text: str, *, account: str = ACCOUNT_TOML) -> list[str]:
        """Return the faults of this text and these accounts, without the file's path."""
        with pytest.raises(ConfigurationError) as caught:
            self.load(text, account=account)
        faults = caught.value.faults
        assert all(fault.isprintable() for fault in faults)
        start = f"{self.path / 'config.toml'}:"
        assert all(fault.startswith(start) for fault in faults)
        return [fault.removeprefix(start) for fault in faults]

    def fault(self, text: str, *, account: str = ACCOUNT_TOML) -> str:
        """Return the fault of this text and these accounts, which must have exactly one."""
        (fault,) = self.faults(text, account=account)
        return fault


def described_keys() -> Iterator[tuple[str, Key]]:
    """Yield every key with its section."""
    for section, keys in SECTIONS.items():
        for key in keys:
            yield section, key
    for key in ACCOUNT:
        yield "accounts", key
