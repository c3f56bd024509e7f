"""Check the configuration and everything that it names: each finding is one line with a remedy.

A check leaves no file, table or row behind.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.config.model import Configuration
from exporter.doctor.account import check_account
from exporter.doctor.database import check_database
from exporter.doctor.finding import Finding
from exporter.doctor.installation import check_installation
from exporter.doctor.keys import check_key
from exporter.doctor.metrics import check_metrics
from exporter.doctor.proxy import check_proxy
from exporter.doctor.spool import check_spool
from exporter.doctor.stream import check_stream

if TYPE_CHECKING:
    from exporter.kalshi.keys import SigningKey


def check(configuration: Configuration, *, offline: bool) -> Iterator[Finding]:
    """Check everything that a poll needs, in the order in which a poll needs it.

    Args:
        configuration: a valid configuration.
        offline: skip all checks that send something to the exchange.
    """
    installation = check_installation()
    if installation is not None:
        yield installation
    names = ", ".join(account.name for account in configuration.accounts)
    yield Finding(subject="configuration", text=f"{configuration.path}; accounts: {names}")
    keys: dict[str, SigningKey] = {}
    for account in configuration.accounts:
        yield from check_key(account, keys)
    yield from check_database(configuration)
    yield from check_spool(configuration)
    yield from check_metrics(configuration)
    yield from check_proxy(configuration)
    if not offline:
        for account in configuration.accounts:
            if account.name in keys:
                yield check_account(account, keys[account.name], configuration.http.proxy)
        yield from check_stream(configuration, keys)
