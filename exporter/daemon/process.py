"""The daemon as a process: it starts, reloads on SIGHUP, and ends on SIGTERM or SIGINT."""

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

from exporter.daemon.listening import Listening
from exporter.daemon.scheduler import Scheduler
from exporter.errors import Exit
from exporter.hooks import DaemonReady, DaemonReloading, DaemonStopping, Hooks

_log = logging.getLogger(__name__)

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_RELEASE_SECONDS = 1.0


def run(
    scheduler: Scheduler,
    hooks: Hooks,
    *,
    listening: Listening,
    reload: Callable[[], None],
) -> Exit:
    """Poll until SIGTERM or SIGINT; a second one ends the process at once.

    Args:
        scheduler: not yet started.
        hooks: receive the daemon's state.
        listening: to the exchange's events; not yet started.
        reload: called in this thread for each SIGHUP.

    Returns:
        The exit code.

    Raises:
        SchemaError: the schema of a database that was away at the start is not this version's.
    """
    # Signals are waited for, not handled: a handler could interrupt this thread while it holds a
    # lock that the handler needs. Threads inherit the mask, so none of them is interrupted.
    awaited = (*_STOPPING, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    scheduler.start()
    listening.start()
    hooks.emit(DaemonReady())
    while (received := signal.sigwait(awaited)) == signal.SIGHUP:
        hooks.emit(DaemonReloading())
        reload()
        hooks.emit(DaemonReady())
    for number in _STOPPING:
        signal.signal(number, _exit_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    _log.info("stopping", extra={"event": "stopping", "signal": signal.Signals(received).name})
    hooks.emit(DaemonStopping())
    listening.begin_stop()
    all_ended = scheduler.stop()
    listening.stop()
    if not all_ended:
        # Threads cannot be ended in another way.
        scheduler.release(_RELEASE_SECONDS)
        if scheduler.fatal is not None:
            _log.error("%s", scheduler.fatal, extra={"event": "fatal"})
        logging.shutdown()
        os._exit(Exit.OK if scheduler.fatal is None else scheduler.fatal.exit_code)
    if scheduler.fatal is not None:
        raise scheduler.fatal
    return Exit.OK


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(Exit.FAILURE)
