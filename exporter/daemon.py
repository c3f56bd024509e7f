"""Polls every account on its interval until it is told to stop."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from exporter.assembly import MOST_AT_ONCE
from exporter.clock import elapsed
from exporter.errors import Exit, ExporterError, SchemaError
from exporter.poll import Poller
from exporter.schedule import Grid, SteadyUTC

_log = logging.getLogger("exporter.daemon")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_STOP_SECONDS = 8.0  # that running polls are given to end by themselves


class Daemon:
    """Runs pollers, each on its grid and never twice at a time.

    Args:
        pollers: one for each account.
        stop: set when polls shall end soon; `pollers` must share it.
    """

    def __init__(self, pollers: Sequence[Poller], *, stop: threading.Event) -> None:
        self._pollers = pollers
        self._stop = stop
        self._idle = threading.Condition()
        self._busy = 0
        self._polled: set[str] = set()
        self._fatal: ExporterError | None = None
        self._scheduler = BackgroundScheduler(
            timezone=SteadyUTC(),
            executors={"default": ThreadPoolExecutor(min(len(pollers), MOST_AT_ONCE))},
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                # A late poll is worth more than none, however late.
                "misfire_grace_time": None,
            },
        )

    def start(self) -> None:
        """Begin to poll, in threads of its own."""
        # A poll that takes longer than an interval skips a tick; the scheduler warns of each.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        for poller in self._pollers:
            self._scheduler.add_job(
                self._tick,
                Grid(poller.account, poller.timing.interval),
                args=(poller,),
                id=poller.account,
            )
        self._scheduler.start()
        _log.info(
            "polling",
            extra={"event": "started", "accounts": len(self._pollers)},
        )

    def stop(self) -> bool:
        """Begin no more polls, and wait a few seconds for those that run.

        Returns:
            Whether all have ended.
        """
        self._stop.set()
        self._scheduler.shutdown(wait=False)
        until = elapsed() + _STOP_SECONDS
        with self._idle:
            while self._busy and (left := until - elapsed()) > 0:
                self._idle.wait(left)
            ended = not self._busy
        _log.info("stopped", extra={"event": "stopped", "polls_cut_short": self._busy})
        return ended

    def run(self) -> Exit:
        """Poll until SIGTERM or SIGINT; a second one ends the process at once.

        Returns:
            The exit code.

        Raises:
            SchemaError: the database came back with a schema that is not this version's.
        """
        # Signals are waited for, not handled: a handler could interrupt this thread while it holds
        # a lock that the handler needs. Threads inherit the mask, so none of them is interrupted.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        self.start()
        received = signal.sigwait(_STOPPING)
        for number in _STOPPING:
            signal.signal(number, _leave_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        _log.info(
            "stopping",
            extra={"event": "stopping", "signal": signal.Signals(received).name},
        )
        if not self.stop():
            # Whoever polls next finds its claim expired. Threads cannot be ended otherwise.
            if self._fatal is not None:
                _log.error("%s", self._fatal, extra={"event": "fatal"})
            logging.shutdown()
            os._exit(Exit.OK if self._fatal is None else self._fatal.exit_code)
        if self._fatal is not None:
            raise self._fatal
        return Exit.OK

    def _tick(self, poller: Poller) -> None:
        with self._idle:
            if self._stop.is_set():
                return
            self._busy += 1
        try:
            first = poller.account not in self._polled
            if poller.poll_if_due(first=first) is not None:
                self._polled.add(poller.account)
        except SchemaError as error:
            self._fatal = error
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # noqa: BLE001  # a defect in one poll must not end all others
            _log.exception(
                "unexpected failure",
                extra={"event": "unexpected", "account": poller.account},
            )
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()


def _leave_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(Exit.FAILURE)
