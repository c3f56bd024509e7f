"""Poll every account on its grid, each in one thread at a time; the accounts may be replaced."""

import logging
import os
import secrets
import signal
import threading
from datetime import datetime, timedelta

from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from exporter.clock import elapsed
from exporter.daemon.grid import Grid, SteadyUTC
from exporter.daemon.watch import HANGS_AFTER, Watch
from exporter.errors import ExporterError, SchemaError
from exporter.hooks import Hooks
from exporter.recording.poller import Poller
from exporter.recording.recorder import MAX_CONCURRENT_POLLS, Recorder

_log = logging.getLogger(__name__)

_STOP_SECONDS = 8.0  # that running polls are given to end by themselves

_MAINTENANCE_SECONDS = 10.0

MAX_EXTRA_POLLS = 16
"""Threads for polls that events ask for: a storm of events leaves all others to the grid."""

_EXTRA_SECONDS = 1.0  # between two polls of an account that events ask for
_EXTRA_ATTEMPTS = 3  # while another exporter is polling the account
_RUNNING_SECONDS = 0.2  # until another look whether a poll under way has ended


class Scheduler:
    """Run a recorder's pollers, each on its grid and never twice at a time.

    Args:
        recorder: of this process; the scheduler closes the ones that it replaces, but not the last.
        stop: set when polls shall end soon; the recorder's sessions must share it.
        hooks: receive `Heartbeat`; pollers emit what concerns polls.
        heartbeat_seconds: how often the scheduler emits that it moves.

    Attributes:
        watch: emits the heartbeats.
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
        self._changed = threading.Condition()  # guards the next seven; notified when a poll ends
        self._running: dict[Poller, float] = {}  # polls under way, and when they began
        self._recorder = recorder
        self._pollers = {poller.account: poller for poller in recorder.pollers}
        self._requested: dict[str, float] = {}  # extra polls that are due, and since when
        self._extra_at: dict[str, float] = {}  # when the latest extra poll began
        self._late_ticks: set[str] = set()  # accounts whose tick came during an extra poll
        self._replaced: list[Recorder] = []
        self._polled: set[str] = set()
        self.watch = Watch(self._hooks, self._hanging)
        self._name = secrets.token_hex(8)
        self._zone = SteadyUTC()
        self._scheduler = BackgroundScheduler(
            timezone=self._zone,
            executors={
                "default": ThreadPoolExecutor(MAX_CONCURRENT_POLLS),
                # In the scheduler's own thread: a heartbeat shows that this thread moves.
                "heartbeat": DebugExecutor(),
                "extra": ThreadPoolExecutor(MAX_EXTRA_POLLS),
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
        for poller in self._pollers.values():
            self._add(poller)
        self._scheduler.add_job(
            self.watch.beat,
            Grid("heartbeat", self._heartbeat_seconds),
            executor="heartbeat",
            id="heartbeat",
        )
        self._scheduler.add_job(
            self._maintain, Grid("maintenance", _MAINTENANCE_SECONDS), id="maintenance"
        )
        self._scheduler.start()
        _log.info("polling", extra={"event": "started", "accounts": len(self._pollers)})

    def poll_soon(self, account: str) -> None:
        """Let the account's next poll be due at once, from any thread.

        Requests until it begins count as one. At most one such poll begins each second, and it
        costs the grid no tick.
        """
        with self._changed:
            if account not in self._pollers:
                return
            now = elapsed()
            delay = max(0.0, self._extra_at.get(account, -_EXTRA_SECONDS) + _EXTRA_SECONDS - now)
        self._request(account, now, 1, delay)

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

    def release(self, seconds: float) -> None:
        """Let go of the claims of polls that were cut short, if that takes no longer than this."""
        thread = threading.Thread(target=self._recorder.release, name="release", daemon=True)
        thread.start()
        thread.join(seconds)

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
        for account in former.keys() - self._pollers.keys():
            self._scheduler.remove_job(_job(account))
        for account, poller in self._pollers.items():
            if account not in former:
                self._add(poller)
            elif poller.timing.interval != former[account].timing.interval:
                self._scheduler.reschedule_job(_job(account), trigger=self._grid(poller))
        self._close_replaced()

    def _add(self, poller: Poller) -> None:
        self._scheduler.add_job(
            self._tick, self._grid(poller), args=(poller.account,), id=_job(poller.account)
        )

    def _grid(self, poller: Poller) -> Grid:
        return Grid(poller.account, poller.timing.interval, daemon=self._name)

    def _hanging(self) -> list[str]:
        """Return the accounts whose polls should have ended long ago."""
        now = elapsed()
        with self._changed:
            return [
                poller.account
                for poller, began in self._running.items()
                if now - began > poller.timing.deadline + HANGS_AFTER
            ]

    def _maintain(self) -> None:
        with self._changed:
            recorder = self._recorder
        recorder.maintain()

    def _tick(self, account: str) -> None:
        with self._changed:
            poller = self._pollers.get(account)
            if poller is None or self._stop.is_set():
                return
            if poller in self._running:
                # An extra poll is under way, whose thread makes up for this tick.
                self._late_ticks.add(account)
                return
            self._running[poller] = elapsed()
        self._run(poller)

    def _extra(self, account: str, attempt: int) -> None:
        """Poll because of an event, unless a poll that began after it is under way."""
        with self._changed:
            requested_at = self._requested.pop(account, elapsed())
            poller = self._pollers.get(account)
            if poller is None or self._stop.is_set():
                return
            began = self._running.get(poller)
            if began is None:
                self._extra_at[account] = self._running[poller] = elapsed()
        if began is not None:
            if began < requested_at:
                self._request(account, requested_at, attempt, _RUNNING_SECONDS)
            return
        if not self._run(poller, requested_at=requested_at) and attempt < _EXTRA_ATTEMPTS:
            self._request(account, requested_at, attempt + 1, _EXTRA_SECONDS)

    def _request(self, account: str, requested_at: float, attempt: int, delay: float) -> None:
        with self._changed:
            if account in self._requested or self._stop.is_set():
                return
            self._requested[account] = requested_at
        self._scheduler.add_job(
            self._extra,
            DateTrigger(datetime.now(self._zone) + timedelta(seconds=delay)),
            args=(account, attempt),
            executor="extra",
        )

    def _run(self, poller: Poller, *, requested_at: float | None = None) -> bool:
        """Poll, and make up for a tick that came meanwhile; return whether it was a poll."""
        try:
            polled = self._poll(poller, requested_at)
            with self._changed:
                is_late = poller.account in self._late_ticks
                self._late_ticks.discard(poller.account)
            if is_late and not self._stop.is_set():
                self._poll(poller, None)
        finally:
            with self._changed:
                del self._running[poller]
                self._changed.notify_all()
            self._close_replaced()
        return polled

    def _poll(self, poller: Poller, requested_at: float | None) -> bool:
        try:
            code = poller.poll_if_due(
                first=poller.account not in self._polled,
                requested=None if requested_at is None else elapsed() - requested_at,
            )
        except SchemaError as error:
            self.fatal = error
            os.kill(os.getpid(), signal.SIGTERM)
            return True
        except Exception:  # noqa: BLE001  # a defect in one poll must not end all others
            _log.exception(
                "unexpected failure", extra={"event": "unexpected", "account": poller.account}
            )
            return True
        if code is None:
            return False
        self._polled.add(poller.account)
        return True

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
