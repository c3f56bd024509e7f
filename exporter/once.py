"""Polls each account once: what cron runs."""

import threading
from collections.abc import Sequence
from contextlib import suppress

from exporter.assembly import MOST_AT_ONCE, pollers
from exporter.config import Account, Configuration
from exporter.errors import DatabaseError, Exit
from exporter.poll import Poller


def run(configuration: Configuration, accounts: Sequence[Account]) -> Exit:
    """Poll each account once, at the same time, whatever happens to the others.

    Returns:
        The highest of their exit codes; everything has been logged.

    Raises:
        ConfigurationError: a key, a path or the schema is wrong; nothing was polled.
    """
    with pollers(configuration, accounts, stop=threading.Event()) as ready:
        # A database that is away is no reason not to look: polls then wait in the spool.
        with suppress(DatabaseError):
            ready[0].prepare()
        return max(_polled(ready))


def _polled(ready: Sequence[Poller]) -> list[Exit]:
    if len(ready) == 1:
        return [ready[0].poll()]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # a cost of many accounts

    with ThreadPoolExecutor(min(len(ready), MOST_AT_ONCE)) as executor:
        return list(executor.map(Poller.poll, ready))
