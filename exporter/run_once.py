"""Poll each account once: what cron runs."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from exporter.config.model import Account, Configuration
from exporter.errors import DatabaseError, Exit, ExporterError
from exporter.hooks import AccountsChanged, Hooks, Listener
from exporter.reading.output import ended_by_signals
from exporter.recording.poller import Poller
from exporter.recording.recorder import MAX_CONCURRENT_POLLS
from exporter.spool.spool import Spool
from exporter.wiring import metrics_of, recorder_of


def run(configuration: Configuration, accounts: Sequence[Account]) -> Exit:
    """Poll each account once, at the same time, whatever happens to the others.

    Returns:
        The highest of their exit codes; everything has been logged.

    Raises:
        ConfigurationError: a key, a path or the schema is wrong; nothing was polled.
    """
    codes: dict[str, Exit] = {}
    hooks = Hooks()
    stop = threading.Event()
    with (
        _healthcheck(configuration, codes) as health,
        # A signal ends the blocks, so that the recorder releases its claims.
        ended_by_signals(),
        recorder_of(configuration, accounts, stop=stop, hooks=hooks) as recorder,
        _textfile(configuration, accounts, recorder.spool) as metrics,
    ):
        hooks.replace(*health, *metrics)
        # A database that is away is no reason not to poll: polls then wait in the spool.
        with suppress(DatabaseError):
            recorder.prepare()
        pollers = recorder.pollers
        codes.update(
            zip((poller.account for poller in pollers), _polled(pollers, stop), strict=True)
        )
        # A daemon that is gone may have left some.
        recorder.drain_events()
    return max(codes.values())


def _polled(pollers: Sequence[Poller], stop: threading.Event) -> list[Exit]:
    if len(pollers) == 1:
        return [pollers[0].poll()]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # a cost of many accounts

    with ThreadPoolExecutor(min(len(pollers), MAX_CONCURRENT_POLLS)) as executor:
        try:
            return list(executor.map(Poller.poll, pollers))
        except BaseException:
            stop.set()  # polls under way end soon, and no other begins
            executor.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _healthcheck(configuration: Configuration, codes: dict[str, Exit]) -> Iterator[list[Listener]]:
    """Ping the configured address when the run begins, and with its result when it ends."""
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
    configuration: Configuration, accounts: Sequence[Account], spool: Spool
) -> Iterator[list[Listener]]:
    """Write the metrics of the run to the configured file."""
    path = None if configuration.metrics is None else configuration.metrics.textfile
    if path is None:
        yield []
        return
    metrics = metrics_of(configuration, spool.pending, process=False)
    metrics.receive(AccountsChanged({each.name: each.poll.interval for each in accounts}))
    yield [metrics]
    metrics.write(path)
