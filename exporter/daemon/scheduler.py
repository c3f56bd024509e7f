"""Polls every account on its interval until it is told to stop; what it polls may be replaced."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from exporter.clock import elapsed
from exporter.daemon.grid import Grid, SteadyUTC
from exporter.errors import DatabaseError, Exit, ExporterError, SchemaError
from exporter.hooks import Listeners
from exporter.recording.poller import Poller
from exporter.wiring import MAX_CONCURRENT_POLLS

_log = logging.getLogger("exporter.daemon.scheduler")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_STOP_SECONDS = 8.0  # that running polls are given to end by themselves

_MAINTENANCE_SECONDS = 10.0

# Beyond its deadline: waiting for the database, and writing what waited in the spool.
_HANGS_AFTER = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class _Replaced:
    """Pollers that begin no more polls, and what to call once those under way have ended."""

    pollers: Sequence[Poller]
    when_idle: Callable[[], None]


class Daemon:
    """Runs pollers, each on its grid and never twice at a time.

    Args:
        pollers: one for each account.
        stop: set when polls shall end soon; `pollers` must share it.
        listeners: are told of the daemon itself; of polls the pollers tell.
        heartbeat_seconds: how often they are told that the scheduler moves.
    """

    def __init__(
        self,
        pollers: Sequence[Poller],
        *,
        stop: threading.Event,
        listeners: Listeners | None = None,
        heartbeat_seconds: float = 5.0,
    ) -> None:
        self._pollers = {poller.account: poller for poller in pollers}
        self._stop = stop
        self._listeners = listeners or Listeners()
        self._pulse_seconds = heartbeat_seconds
        self._idle = threading.Condition()
        self._busy: dict[Poller, float] = {}  # since when
        self._replaced: list[_Replaced] = []
        self._polled: set[str] = set()
        self._hanging: list[str] = []
        self._fatal: ExporterError | None = None
        self._name = secrets.token_hex(8)
        self._scheduler = BackgroundScheduler(
            timezone=SteadyUTC(),
            executors={
                "default": ThreadPoolExecutor(MAX_CONCURRENT_POLLS),
                # In the scheduler's own thread: a pulse shows that this one moves.
                "pulse": DebugExecutor(),
            },
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
        self._tell_whom()
        for poller in self._pollers.values():
            self._add(poller)
        self._scheduler.add_job(
            self._heartbeat, Grid("pulse", self._pulse_seconds), executor="pulse", id="pulse"
        )
        self._scheduler.add_job(self._maintain, Grid("tidy", _MAINTENANCE_SECONDS), id="tidy")
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
            cut_short = len(self._busy)
        _log.info("stopped", extra={"event": "stopped", "polls_cut_short": cut_short})
        return not cut_short

    def replace(self, pollers: Sequence[Poller], *, when_idle: Callable[[], None]) -> None:
        """Poll with others from now on; who keeps account and interval keeps its place.

        Args:
            pollers: one for each account.
            when_idle: called once no poll of the former pollers is under way, from any thread.
        """
        with self._idle:
            former = self._pollers
            self._pollers = {poller.account: poller for poller in pollers}
            self._replaced.append(_Replaced(list(former.values()), when_idle))
            # The first poll asks even if the exchange has refused others.
            self._polled.clear()
        self._tell_whom()
        for account in former.keys() - self._pollers.keys():
            self._scheduler.remove_job(_job(account))
        for account, poller in self._pollers.items():
            if account not in former:
                self._add(poller)
            elif poller.timing.interval != former[account].timing.interval:
                self._scheduler.reschedule_job(_job(account), trigger=self._grid(poller))
        self._close_replaced()

    def run(self, reload: Callable[[], None]) -> Exit:
        """Poll until SIGTERM or SIGINT; a second one ends the process at once.

        Args:
            reload: called in this thread for each SIGHUP.

        Returns:
            The exit code.

        Raises:
            SchemaError: the database's schema is not this version's; perhaps that of one that was
                away at the start and came back.
        """
        # A database that is away is no reason not to look: polls then wait in the spool.
        with suppress(DatabaseError):
            next(iter(self._pollers.values())).prepare()
        # Signals are waited for, not handled: a handler could interrupt this thread while it holds
        # a lock that the handler needs. Threads inherit the mask, so none of them is interrupted.
        awaited = (*_STOPPING, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        self.start()
        self._listeners.tell(lambda listener: listener.ready())
        while (received := signal.sigwait(awaited)) == signal.SIGHUP:
            self._listeners.tell(lambda listener: listener.reloading())
            reload()
            self._listeners.tell(lambda listener: listener.ready())
        for number in _STOPPING:
            signal.signal(number, _exit_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        _log.info(
            "stopping",
            extra={"event": "stopping", "signal": signal.Signals(received).name},
        )
        self._listeners.tell(lambda listener: listener.stopping())
        if not self.stop():
            # Whoever polls next finds its claim expired. Threads cannot be ended otherwise.
            if self._fatal is not None:
                _log.error("%s", self._fatal, extra={"event": "fatal"})
            logging.shutdown()
            os._exit(Exit.OK if self._fatal is None else self._fatal.exit_code)
        if self._fatal is not None:
            raise self._fatal
        return Exit.OK

    def _tell_whom(self) -> None:
        intervals = {account: each.timing.interval for account, each in self._pollers.items()}
        self._listeners.tell(lambda listener: listener.accounts_changed(intervals))

    def _add(self, poller: Poller) -> None:
        self._scheduler.add_job(
            self._tick,
            self._grid(poller),
            args=(poller.account,),
            id=_job(poller.account),
        )

    def _grid(self, poller: Poller) -> Grid:
        return Grid(poller.account, poller.timing.interval, daemon=self._name)

    def _heartbeat(self) -> None:
        now = elapsed()
        with self._idle:
            hanging = [
                poller.account
                for poller, began in self._busy.items()
                if now - began > poller.timing.deadline + _HANGS_AFTER
            ]
        if hanging:
            if hanging != self._hanging:
                _log.error("polls hang", extra={"event": "hanging", "accounts": ", ".join(hanging)})
            self._hanging = hanging
            return
        self._hanging = []
        self._listeners.tell(lambda listener: listener.heartbeat())

    def _maintain(self) -> None:
        with self._idle:
            poller = next(iter(self._pollers.values()))  # all write to one database
        poller.maintain()

    def _tick(self, account: str) -> None:
        with self._idle:
            poller = self._pollers.get(account)
            if poller is None or self._stop.is_set():
                return
            self._busy[poller] = elapsed()
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
                del self._busy[poller]
                self._idle.notify_all()
            self._close_replaced()

    def _close_replaced(self) -> None:
        with self._idle:
            idle = [each for each in self._replaced if self._busy.keys().isdisjoint(each.pollers)]
            for each in idle:
                self._replaced.remove(each)
        for each in idle:
            each.when_idle()


def _job(account: str) -> str:
    return f"account {account}"


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(Exit.FAILURE)
