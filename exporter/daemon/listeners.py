"""The daemon's listeners: a reload of the configuration keeps, moves or replaces them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.config.model import Configuration
from exporter.errors import ExporterError
from exporter.hooks import Listener
from exporter.logs.deduplication import RepeatFilter
from exporter.monitoring.health import HEARTBEAT_SECONDS, Health
from exporter.monitoring.systemd import systemd
from exporter.spool.spool import Spool
from exporter.wiring import metrics_of

if TYPE_CHECKING:
    from exporter.monitoring.endpoint import Endpoint
    from exporter.monitoring.healthchecks import DaemonHealth
    from exporter.monitoring.metrics import Metrics


class DaemonListeners:
    """Make the listeners that a configuration names, and keep those that the next one names too."""

    def __init__(self) -> None:
        self._health = Health()
        self._systemd = systemd(self._health)
        self._repeats = RepeatFilter()
        self._metrics: Metrics | None = None
        self._endpoint: Endpoint | None = None
        self._healthcheck: DaemonHealth | None = None
        self._healthcheck_address: tuple[str | None, str | None] = (None, None)
        self._repeats.attach()

    @property
    def heartbeat_seconds(self) -> float:
        """Seconds between two heartbeats that the scheduler must emit."""
        return HEARTBEAT_SECONDS if self._systemd is None else self._systemd.heartbeat_seconds

    def of(self, configuration: Configuration, spool: Spool) -> Sequence[Listener]:
        """Return the listeners of a configuration, in the order in which they receive events.

        Args:
            configuration: names them.
            spool: whose polls the metrics count.

        Raises:
            ConfigurationError: a library that one of them needs is not installed.
        """
        listeners: list[Listener] = [self._health, self._repeats]
        if self._systemd is not None:
            listeners.append(self._systemd)
        listeners += self._of_metrics(configuration, spool)
        listeners += self._of_healthcheck(
            configuration.notify.healthcheck_url, configuration.http.proxy
        )
        return listeners

    def failed(self, error: ExporterError) -> None:
        """Report to the healthcheck why the daemon ends."""
        if self._healthcheck is not None:
            self._healthcheck.close(error.exit_code)
            self._healthcheck = None

    def close(self) -> None:
        """Close everything that the listeners have open."""
        self._repeats.detach()
        if self._endpoint is not None:
            self._endpoint.close()
        if self._healthcheck is not None:
            self._healthcheck.close()

    def _of_metrics(self, configuration: Configuration, spool: Spool) -> list[Listener]:
        """Return the metrics, which keep counting; their endpoint moves if the address changes."""
        wanted = configuration.metrics
        address = None if wanted is None else (wanted.host, wanted.port)
        if wanted is not None and self._metrics is None:
            self._metrics = metrics_of(configuration, spool.pending, process=True)
        if self._endpoint is not None and self._endpoint.address != address:
            self._endpoint.close()
            self._endpoint = None
        if self._metrics is None or address is None:
            return []
        from exporter.monitoring.endpoint import Endpoint  # noqa: PLC0415  # an extra's

        self._metrics.spooled = spool.pending
        if self._endpoint is None:
            self._endpoint = Endpoint(self._metrics, self._health, *address)
        return [self._metrics, self._endpoint]

    def _of_healthcheck(self, url: str | None, proxy: str | None) -> list[Listener]:
        """Return the healthcheck, which continues unless it has another address."""
        if self._healthcheck is not None and (url, proxy) != self._healthcheck_address:
            self._healthcheck.close()
            self._healthcheck = None
        if url is None:
            return []
        if self._healthcheck is None:
            from exporter.monitoring.healthchecks import (  # noqa: PLC0415  # where configured
                DaemonHealth,
                Healthcheck,
            )

            self._healthcheck = DaemonHealth(Healthcheck(url, proxy), self._health)
            self._healthcheck_address = (url, proxy)
        return [self._healthcheck]
