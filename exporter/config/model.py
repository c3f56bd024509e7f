"""The configuration as frozen values; `load` makes them."""

from pathlib import Path
from typing import Literal

import msgspec

from exporter.config.urls import secrets_of, without_secrets


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """The database that keeps the history.

    Attributes:
        url: for SQLAlchemy, with its password; the driver named, SQLite's path absolute.
        auto_migrate: whether the exporter may bring the schema to its version by itself.
    """

    url: str
    auto_migrate: bool

    @property
    def safe_url(self) -> str:
        """The URL with `***` in place of its secrets."""
        return without_secrets(self.url)

    def __repr__(self) -> str:
        return f"Database(url={self.safe_url!r}, auto_migrate={self.auto_migrate})"


class PollSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of an account's polls: `interval` and `deadline` in seconds, sizes in bytes."""

    interval: float
    deadline: float
    max_attempts: int
    max_response_size: int
    confirm_removal: int


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """`enabled`: whether a daemon listens; an account's `stream` overrides it."""

    enabled: bool


class Http(msgspec.Struct, frozen=True, kw_only=True):
    """The way to the exchange.

    Attributes:
        proxy: http://host:port, perhaps with a percent-encoded user:password@, which is a secret;
            None for a direct connection.
    """

    proxy: str | None

    @property
    def safe_proxy(self) -> str | None:
        """The proxy's URL with `***` in place of its secrets."""
        return None if self.proxy is None else without_secrets(self.proxy)

    def __repr__(self) -> str:
        return f"Http(proxy={self.safe_proxy!r})"


class Spool(msgspec.Struct, frozen=True, kw_only=True):
    """The place where observations wait while the database is away, and its size in bytes."""

    directory: Path
    max_size: int


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """`level` is DEBUG, INFO, WARNING or ERROR; `format` is text or json."""

    level: str
    format: str


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The address where the daemon serves metrics, and the file to which `run-once` writes them.

    Attributes:
        host: IPv6 has no brackets.
        textfile: None for none.
    """

    host: str
    port: int
    textfile: Path | None


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """The service that is pinged while all is well: `healthcheck_url` is a secret, or None."""

    healthcheck_url: str | None

    def __repr__(self) -> str:
        return f"Notify(healthcheck_url={'***' if self.healthcheck_url else None})"


class RecordedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An `[[accounts]]` entry as far as it concerns the history.

    Attributes:
        poll: the `[poll]` section, overridden by this account's keys.
        stream: whether a daemon listens to its events, by the entry or else by `[stream]`.
    """

    name: str
    poll: PollSettings
    stream: bool


class Account(RecordedAccount, frozen=True, kw_only=True):
    """One `[[accounts]]` entry.

    Attributes:
        base_url: up to and including /trade-api/v2, without a trailing slash.
        environment: production, demo, or None if the entry has a base_url.
        exchange: predictions or margin.
        subaccount: None for all of them in one response.
        stream_url: of the WebSocket; None to derive it from the environment or the base_url.
    """

    base_url: str
    environment: str | None
    exchange: Literal["predictions", "margin"]
    key_id: str
    private_key_file: Path
    private_key_passphrase_file: Path | None
    subaccount: int | None
    stream_url: str | None

    @property
    def key_label(self) -> str:
        """The key id as people may see it: its last four characters."""
        return f"…{self.key_id[-4:]}"

    def __repr__(self) -> str:
        return f"Account(name={self.name!r}, base_url={self.base_url!r}, key={self.key_label!r})"


class HistoryConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of commands that only read or change the history.

    Attributes:
        path: of the file, absolute.
    """

    path: Path
    database: Database
    spool: Spool
    log: Log
    accounts: tuple[RecordedAccount, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no line may show: passwords, as they are and percent-encoded."""
        return secrets_of(self.database.url)


class Configuration(HistoryConfiguration, frozen=True, kw_only=True):
    """The whole configuration."""

    stream: Stream
    http: Http
    metrics: Metrics | None
    notify: Notify
    accounts: tuple[Account, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no line may show: passwords, key ids, the address of the healthcheck."""
        keys = (account.key_id for account in self.accounts)
        # Libraries also repeat the path alone.
        address = self.notify.healthcheck_url or ""
        return (
            *secrets_of(self.database.url),
            *secrets_of(self.http.proxy or ""),
            *keys,
            *filter(None, [address, _path_of(address)]),
        )


def _path_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]
