"""The daemon with all who are told of it, and what SIGHUP replaces while it runs."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from exporter.clock import Clock
from exporter.config.model import Configuration
from exporter.daemon.scheduler import Daemon
from exporter.errors import ConfigurationError, DatabaseError, Exit, ExporterError
from exporter.hooks import Listener, Listeners
from exporter.logs.deduplication import RepeatFilter
from exporter.monitoring.health import HEARTBEAT_SECONDS, Health
from exporter.monitoring.systemd import systemd
from exporter.wiring import metrics_of, pollers, spool_of

if TYPE_CHECKING:
    from exporter.monitoring.healthchecks import DaemonHealth
    from exporter.monitoring.metrics import Endpoint, Metrics
    from exporter.recording.poller import Poller
    from exporter.spool.spool import Spool

_log = logging.getLogger("exporter.daemon.reload")


def run(load: Callable[[], Configuration], adopt: Callable[[Configuration], None]) -> Exit:
    """Run the daemon until it is told to stop.

    Args:
        load: reads the configuration, at the start and for each SIGHUP.
        adopt: makes the log as a configuration says; called once that one is in force.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: it, a key or the schema is wrong.
    """
    configuration = load()
    adopt(configuration)
    service = _Service(load, adopt)
    try:
        return service.run(configuration)
    finally:
        service.close()


class _Service:
    """What is in force, each part kept or replaced by what the next configuration says."""

    def __init__(
        self, load: Callable[[], Configuration], adopt: Callable[[Configuration], None]
    ) -> None:
        self._load = load
        self._adopt = adopt
        self._stop = threading.Event()
        self._clock = Clock()
        self._health = Health()
        self._systemd = systemd(self._health)
        self._repeats = RepeatFilter()
        self._listeners = Listeners()
        self._metrics: Metrics | None = None
        self._endpoint: Endpoint | None = None
        self._switch: DaemonHealth | None = None
        self._switch_address: tuple[str | None, str | None] = (None, None)
        self._daemon: Daemon | None = None
        self._in_force = ExitStack()

    def run(self, configuration: Configuration) -> Exit:
        """Run as this configuration says, until SIGHUP brings another."""
        self._repeats.attach()
        ready, spool = self._assembled(configuration, self._in_force)
        self._listen(configuration, spool)
        self._daemon = Daemon(
            ready,
            stop=self._stop,
            listeners=self._listeners,
            heartbeat_seconds=self._systemd.heartbeat_seconds
            if self._systemd
            else HEARTBEAT_SECONDS,
        )
        try:
            return self._daemon.run(self.reload)
        except ExporterError as error:
            if self._switch is not None:
                self._switch.close(error.exit_code)
                self._switch = None
            raise

    def reload(self) -> None:
        """Put the configuration as it is now in force, unless anything is wrong with it."""
        fresh = ExitStack()
        try:
            configuration = self._load()
            ready, spool = self._assembled(configuration, fresh)
            with suppress(DatabaseError):  # it may be away; polls then wait in the spool
                ready[0].prepare()
            self._listen(configuration, spool)
        except Exception as error:  # noqa: BLE001  # whatever is wrong, the polls go on as they are
            fresh.close()
            faults = error.faults if isinstance(error, ConfigurationError) else [str(error)]
            self._health.reload_failed(self._clock.now(), _one_line(faults))
            _log_faults(faults)
            return
        self._health.reloaded()
        self._adopt(configuration)
        former, self._in_force = self._in_force, fresh
        assert self._daemon is not None  # noqa: S101  # for the type checker: it is what calls
        self._daemon.replace(ready, when_idle=former.close)
        _log.info("configuration read", extra={"event": "reloaded", "accounts": len(ready)})

    def close(self) -> None:
        """Close what is in force; what was before has been closed by then."""
        self._repeats.detach()
        if self._endpoint is not None:
            self._endpoint.close()
        if self._switch is not None:
            self._switch.close()
        self._in_force.close()

    def _assembled(
        self, configuration: Configuration, stack: ExitStack
    ) -> tuple[list["Poller"], "Spool"]:
        ready = stack.enter_context(
            pollers(
                configuration,
                configuration.accounts,
                stop=self._stop,
                listeners=self._listeners,
                clock=self._clock,
            )
        )
        return ready, stack.enter_context(closing(spool_of(configuration)))

    def _listen(self, configuration: Configuration, spool: "Spool") -> None:
        """Tell those who are configured.

        Raises:
            ConfigurationError: a library that one of them needs is not installed.
        """
        listeners: list[Listener] = [self._health, self._repeats]
        if self._systemd is not None:
            listeners.append(self._systemd)
        listeners += self._answering(configuration, spool)
        listeners += self._switching(configuration.notify.healthcheck_url, configuration.http.proxy)
        self._listeners.replace(*listeners)

    def _answering(self, configuration: Configuration, spool: "Spool") -> list[Listener]:
        """Metrics go on counting, and move to another address if need be."""
        wanted = configuration.metrics
        address = None if wanted is None else (wanted.host, wanted.port)
        if wanted is not None and self._metrics is None:
            self._metrics = metrics_of(configuration, process=True)
        if self._endpoint is not None and self._endpoint.address != address:
            self._endpoint.close()
            self._endpoint = None
        if self._metrics is None or address is None:
            return []
        from exporter.monitoring.metrics import Endpoint  # noqa: PLC0415  # an extra's

        self._metrics.spooled = spool.pending
        if self._endpoint is None:
            self._endpoint = Endpoint(self._metrics, self._health, *address)
        return [self._metrics, self._endpoint]

    def _switching(self, url: str | None, proxy: str | None) -> list[Listener]:
        """The dead man's switch goes on, unless it has another address."""
        if self._switch is not None and (url, proxy) != self._switch_address:
            self._switch.close()
            self._switch = None
        if url is None:
            return []
        if self._switch is None:
            from exporter.monitoring.healthchecks import (  # noqa: PLC0415  # where it is configured
                DaemonHealth,
                Healthcheck,
            )

            self._switch = DaemonHealth(Healthcheck(url, proxy), self._health)
            self._switch_address = (url, proxy)
        return [self._switch]


def _one_line(faults: Sequence[str]) -> str:
    """Return the first fault, short enough for a line of `systemctl status`."""
    more = f" (and {len(faults) - 1} more, see the log)" if len(faults) > 1 else ""
    return " ".join(faults[0].split())[:200] + more


def _log_faults(faults: Sequence[str]) -> None:
    for fault in faults:
        _log.error("%s; the configuration in force stays", fault, extra={"event": "reload_failed"})
