"""The daemon with its listeners, and what SIGHUP replaces while it runs."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from exporter.clock import Clock
from exporter.config.model import Configuration
from exporter.daemon import process
from exporter.daemon.listeners import DaemonListeners
from exporter.daemon.listening import Listening
from exporter.daemon.scheduler import Scheduler
from exporter.daemon.watch import HANGS_AFTER
from exporter.errors import ConfigurationError, DatabaseError, Exit, ExporterError
from exporter.hooks import AccountsChanged, DaemonReloaded, DaemonReloadFailed, Hooks
from exporter.recording.recorder import Recorder
from exporter.wiring import recorder_of

_log = logging.getLogger(__name__)


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
    service = _Service(load, adopt, configuration)
    try:
        return service.run()
    finally:
        service.close()


class _Service:
    """The parts in force. The next configuration keeps or replaces each of them."""

    def __init__(
        self,
        load: Callable[[], Configuration],
        adopt: Callable[[Configuration], None],
        configuration: Configuration,
    ) -> None:
        self._load = load
        self._adopt = adopt
        self._stop = threading.Event()
        self._clock = Clock()
        self._hooks = Hooks()
        self._listeners = DaemonListeners()
        self._recorder = self._made_recorder(configuration)
        self._hooks.replace(*self._listeners.of(configuration, self._recorder.spool))
        self._scheduler = Scheduler(
            self._recorder,
            stop=self._stop,
            hooks=self._hooks,
            heartbeat_seconds=self._listeners.heartbeat_seconds,
        )
        self._listening = Listening(
            self._recorder,
            hooks=self._hooks,
            clock=self._clock,
            poll_soon=self._scheduler.poll_soon,
        )
        self._scheduler.watch.threads(lambda: self._listening.hanging(HANGS_AFTER))

    def run(self) -> Exit:
        """Run as the configuration says, until SIGHUP brings another, and then as that says."""
        # A database that is away is no reason not to poll: polls then wait in the spool.
        try:
            with suppress(DatabaseError):
                self._recorder.prepare()
            self._announce()
            return process.run(
                self._scheduler, self._hooks, listening=self._listening, reload=self.reload
            )
        except ExporterError as error:
            self._listeners.failed(error)
            raise

    def reload(self) -> None:
        """Put the configuration as it is now in force, unless anything is wrong with it."""
        recorder: Recorder | None = None
        try:
            configuration = self._load()
            recorder = self._made_recorder(configuration)
            with suppress(DatabaseError):  # it may be away; polls then wait in the spool
                recorder.prepare()
            listeners = self._listeners.of(configuration, recorder.spool)
        except Exception as error:  # noqa: BLE001  # whatever is wrong, the polls go on as they are
            if recorder is not None:
                recorder.close()
            faults = error.faults if isinstance(error, ConfigurationError) else [str(error)]
            self._hooks.emit(DaemonReloadFailed(self._clock.now(), _one_line(faults)))
            _log_faults(faults)
            return
        self._hooks.replace(*listeners)
        self._hooks.emit(DaemonReloaded())
        self._adopt(configuration)
        self._recorder = recorder
        # Listeners must know a new account before anything is emitted about it.
        self._announce()
        # This comes before the scheduler, which closes the former recorder.
        self._listening.use(recorder)
        self._scheduler.replace(recorder)
        _log.info(
            "configuration read", extra={"event": "reloaded", "accounts": len(recorder.pollers)}
        )

    def close(self) -> None:
        """Close what is in force; the scheduler has closed what was before."""
        self._listeners.close()
        self._recorder.close()

    def _announce(self) -> None:
        sources = self._recorder.stream.sources
        self._hooks.emit(
            AccountsChanged(
                {each.account: each.timing.interval for each in self._recorder.pollers},
                frozenset(account.name for source in sources for account in source.accounts),
            )
        )

    def _made_recorder(self, configuration: Configuration) -> Recorder:
        return recorder_of(
            configuration,
            configuration.accounts,
            stop=self._stop,
            hooks=self._hooks,
            clock=self._clock,
        )


def _one_line(faults: Sequence[str]) -> str:
    """Return the first fault, short enough for a line of `systemctl status`."""
    more = f" (and {len(faults) - 1} more, see the log)" if len(faults) > 1 else ""
    return " ".join(faults[0].split())[:200] + more


def _log_faults(faults: Sequence[str]) -> None:
    for fault in faults:
        _log.error("%s; the configuration in force stays", fault, extra={"event": "reload_failed"})
