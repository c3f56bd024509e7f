"""Whom a daemon listens for: one connection per API key and exchange, shared by their accounts."""

from dataclasses import dataclass

from exporter.kalshi.keys import SigningKey


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """An account that is listened for.

    Attributes:
        name: the account's.
        own_groups_only: whether it is bound to a subaccount, so that events of other subaccounts'
            groups are not its own.
    """

    name: str
    own_groups_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """What one connection needs.

    Attributes:
        url: of the WebSocket.
        key_id, key: sign the handshake.
        proxy: the URL of an HTTP proxy; None for none.
        accounts: that share the connection.
    """

    url: str
    key_id: str
    key: SigningKey
    proxy: str | None
    accounts: tuple[StreamAccount, ...]

    @property
    def identity(self) -> tuple[str, str, str | None]:
        """What makes two sources the same connection."""
        return self.url, self.key_id, self.proxy

    @property
    def names(self) -> str:
        """The accounts' names, for log lines."""
        return ", ".join(account.name for account in self.accounts)
