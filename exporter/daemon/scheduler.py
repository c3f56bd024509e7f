"""Poll every account on its grid, each in one thread at a time; the accounts may be replaced."""

import logging
import os
import secrets
import signal
import threading

from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from exporter.clock import elapsed
from exporter.daemon.grid import Grid, SteadyUTC
from exporter.errors import ExporterError, SchemaError
from exporter.hooks import AccountsChanged, Heartbeat, Hooks
from exporter.recording.poller import Poller
from exporter.recording.recorder import MAX_CONCURRENT_POLLS, Recorder

_log = logging.getLogger(__name__)

_STOP_SECONDS = 8.0  # that running polls are given to end by themselves

_MAINTENANCE_SECONDS = 10.0

# Beyond its deadline: waiting for the database, and writing what waited in the spool.
_HANGS_AFTER = 300.0  # seconds


class Scheduler:
    """Run a recorder's pollers, each on its grid and never twice at a time.

    Args:
        recorder: of this process; the scheduler closes the ones that it replaces, but not the last.
        stop: set when polls shall end soon; the recorder's sessions must share it.
        hooks: receive `AccountsChanged` and `Heartbeat`; pollers emit what concerns polls.
        heartbeat_seconds: how often the scheduler emits that it moves.

    Attributes:
        fatal: what the daemon has to end for, once SIGTERM was sent because of it.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        stop: threading.Event,
        hooks: Hooks | None = None,
        heartbeat_seconds: float = 5.0,
    ) -> None:
        self.fatal: ExporterError | None = None
        self._stop = stop
        self._hooks = hooks or Hooks()
        self._heartbeat_seconds = heartbeat_seconds
        self._changed = threading.Condition()  # guards the next four; notified when a poll ends
        self._running: dict[Poller, float] = {}  # polls under way, and when they began
        self._recorder = recorder
        self._pollers = {poller.account: poller for poller in recorder.pollers}
        self._replaced: list[Recorder] = []
        self._polled: set[str] = set()
        self._hanging: list[str] = []
        self._name = secrets.token_hex(8)
        self._scheduler = BackgroundScheduler(
            timezone=SteadyUTC(),
            executors={
                "default": ThreadPoolExecutor(MAX_CONCURRENT_POLLS),
                # In the scheduler's own thread: a heartbeat shows that this thread moves.
                "heartbeat": DebugExecutor(),
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
        self._announce()
        for poller in self._pollers.values():
            self._add(poller)
        self._scheduler.add_job(
            self._heartbeat,
            Grid("heartbeat", self._heartbeat_seconds),
            executor="heartbeat",
            id="heartbeat",
        )
        self._scheduler.add_job(
            self._maintain, Grid("maintenance", _MAINTENANCE_SECONDS), id="maintenance"
        )
        self._scheduler.start()
        _log.info("polling", extra={"event": "started", "accounts": len(self._pollers)})

    def stop(self) -> bool:
        """Begin no more polls, and wait a few seconds for those under way.

        Returns:
            Whether all have ended.
        """
        self._stop.set()
        self._scheduler.shutdown(wait=False)
        until = elapsed() + _STOP_SECONDS
        with self._changed:
            while self._running and (left := until - elapsed()) > 0:
                self._changed.wait(left)
            cut_short = len(self._running)
        _log.info("stopped", extra={"event": "stopped", "polls_cut_short": cut_short})
        return not cut_short

    def replace(self, recorder: Recorder) -> None:
        """Poll with another recorder from now on, and close the former once it is idle.

        An account that stays, with the same interval, keeps its place on the grid.
        """
        with self._changed:
            former = self._pollers
            self._replaced.append(self._recorder)
            self._recorder = recorder
            self._pollers = {poller.account: poller for poller in recorder.pollers}
            # The first poll asks even if the exchange has refused others.
            self._polled.clear()
        self._announce()
        for account in former.keys() - self._pollers.keys():
            self._scheduler.remove_job(_job(account))
        for account, poller in self._pollers.items():
            if account not in former:
                self._add(poller)
            elif poller.timing.interval != former[account].timing.interval:
                self._scheduler.reschedule_job(_job(account), trigger=self._grid(poller))
        self._close_replaced()

    def _announce(self) -> None:
        intervals = {account: each.timing.interval for account, each in self._pollers.items()}
        self._hooks.emit(AccountsChanged(intervals))

    def _add(self, poller: Poller) -> None:
        self._scheduler.add_job(
            self._tick, self._grid(poller), args=(poller.account,), id=_job(poller.account)
        )

    def _grid(self, poller: Poller) -> Grid:
        return Grid(poller.account, poller.timing.interval, daemon=self._name)

    def _heartbeat(self) -> None:
        now = elapsed()
        with self._changed:
            hanging = [
                poller.account
                for poller, began in self._running.items()
                if now - began > poller.timing.deadline + _HANGS_AFTER
            ]
        if hanging:
            if hanging != self._hanging:
                _log.error("polls hang", extra={"event": "hanging", "accounts": ", ".join(hanging)})
            self._hanging = hanging
            return
        self._hanging = []
        self._hooks.emit(Heartbeat())

    def _maintain(self) -> None:
        with self._changed:
            recorder = self._recorder
        recorder.maintain()

    def _tick(self, account: str) -> None:
        with self._changed:
            poller = self._pollers.get(account)
            if poller is None or self._stop.is_set():
                return
            self._running[poller] = elapsed()
        try:
            first = poller.account not in self._polled
            if poller.poll_if_due(first=first) is not None:
                self._polled.add(poller.account)
        except SchemaError as error:
            self.fatal = error
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # noqa: BLE001  # a defect in one poll must not end all others
            _log.exception(
                "unexpected failure", extra={"event": "unexpected", "account": poller.account}
            )
        finally:
            with self._changed:
                del self._running[poller]
                self._changed.notify_all()
            self._close_replaced()

    def _close_replaced(self) -> None:
        with self._changed:
            busy = self._running.keys()
            idle = [each for each in self._replaced if busy.isdisjoint(each.pollers)]
            for each in idle:
                self._replaced.remove(each)
        for each in idle:
            each.close()


def _job(account: str) -> str:
    return f"account {account}"
