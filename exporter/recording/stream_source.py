"""The sources of a daemon's stream: one per API key and exchange, shared by their accounts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.config.model import Account
from exporter.kalshi.exchanges import stream_url
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
    """The parameters of one connection.

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
        """The key by which two sources are the same connection."""
        return self.url, self.key_id, self.proxy

    @property
    def names(self) -> str:
        """The accounts' names, for log lines."""
        return ", ".join(account.name for account in self.accounts)


def sources_of(
    accounts: Sequence[Account], keys: Mapping[str, SigningKey], proxy: str | None
) -> list[StreamSource]:
    """Return the sources that a daemon listens to, one for each key and exchange.

    Args:
        accounts: those whose `stream` is off are left out.
        keys: by account.
        proxy: the URL of an HTTP proxy; None for none.
    """
    sources: dict[tuple[str, str, str | None], StreamSource] = {}
    for account in accounts:
        if not account.stream:
            continue
        source = _source_of(account, keys[account.name], proxy)
        known = sources.get(source.identity)
        if known is not None:
            source = replace(known, accounts=known.accounts + source.accounts)
        sources[source.identity] = source
    return list(sources.values())


def _source_of(account: Account, key: SigningKey, proxy: str | None) -> StreamSource:
    return StreamSource(
        url=account.stream_url
        or stream_url(account.exchange, environment=account.environment, base_url=account.base_url),
        key_id=account.key_id,
        key=key,
        proxy=proxy,
        accounts=(StreamAccount(account.name, own_groups_only=account.subaccount is not None),),
    )
