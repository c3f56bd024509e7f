"""Polls each account once: what cron runs."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from exporter.config.model import Account, Configuration
from exporter.errors import DatabaseError, Exit, ExporterError
from exporter.hooks import Listener, Listeners
from exporter.recording.poller import Poller
from exporter.wiring import MAX_CONCURRENT_POLLS, metrics_of, pollers


def run(configuration: Configuration, accounts: Sequence[Account]) -> Exit:
    """Poll each account once, at the same time, whatever happens to the others.

    Returns:
        The highest of their exit codes; everything has been logged.

    Raises:
        ConfigurationError: a key, a path or the schema is wrong; nothing was polled.
    """
    codes: dict[str, Exit] = {}
    with (
        _healthcheck(configuration, codes) as told,
        _textfile(configuration, accounts) as counting,
        pollers(
            configuration,
            accounts,
            stop=threading.Event(),
            listeners=Listeners(*told, *counting),
        ) as ready,
    ):
        # A database that is away is no reason not to look: polls then wait in the spool.
        with suppress(DatabaseError):
            ready[0].prepare()
        codes.update(zip((poller.account for poller in ready), _polled(ready), strict=True))
    return max(codes.values())


def _polled(ready: Sequence[Poller]) -> list[Exit]:
    if len(ready) == 1:
        return [ready[0].poll()]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # a cost of many accounts

    with ThreadPoolExecutor(min(len(ready), MAX_CONCURRENT_POLLS)) as executor:
        return list(executor.map(Poller.poll, ready))


@contextmanager
def _healthcheck(configuration: Configuration, codes: dict[str, Exit]) -> Iterator[list[Listener]]:
    """Ping the configured address when the run begins, and when it ends with what became of it."""
    url = configuration.notify.healthcheck_url
    if url is None:
        yield []
        return
    from exporter.monitoring.healthchecks import (  # noqa: PLC0415  # only where it is configured
        Healthcheck,
        RunHealth,
    )

    healthcheck, health = Healthcheck(url, configuration.http.proxy), RunHealth()
    healthcheck.start()
    try:
        yield [health]
        health.ping(healthcheck, codes)
    except ExporterError as error:
        healthcheck.fail(error.exit_code)
        raise
    finally:
        healthcheck.close()


@contextmanager
def _textfile(
    configuration: Configuration, accounts: Sequence[Account]
) -> Iterator[list[Listener]]:
    """Leave the metrics of the run in the configured file."""
    path = None if configuration.metrics is None else configuration.metrics.textfile
    if path is None:
        yield []
        return
    metrics = metrics_of(configuration, process=False)
    metrics.accounts_changed({account.name: account.poll.interval for account in accounts})
    yield [metrics]
    metrics.write(path)
