"""Decide when to poll: every account on its grid, and when an event asks for it."""

import logging
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from exporter.daemon.extra_polls import ExtraPolls
from exporter.daemon.grid import Grid, SteadyUTC
from exporter.daemon.pollers import Pollers
from exporter.daemon.runner import PollRunner
from exporter.daemon.watch import Watch
from exporter.errors import ExporterError
from exporter.hooks import Hooks
from exporter.recording.poller import Poller
from exporter.recording.recorder import MAX_CONCURRENT_POLLS, Recorder

_log = logging.getLogger(__name__)

_STOP_SECONDS = 8.0  # that running polls are given to end by themselves

_MAINTENANCE_SECONDS = 10.0

MAX_EXTRA_POLLS = 16
"""Threads for polls that events ask for: a storm of events leaves all others to the grid."""


class Scheduler:
    """Run a recorder's pollers, each on its grid and never twice at a time.

    Args:
        recorder: of this process; the scheduler closes the ones that it replaces, but not the last.
        stop: set when polls shall end soon; the recorder's sessions must share it.
        hooks: receive `Heartbeat`; pollers emit what concerns polls.
        heartbeat_seconds: how often the scheduler emits that it moves.

    Attributes:
        watch: emits the heartbeats.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        stop: threading.Event,
        hooks: Hooks | None = None,
        heartbeat_seconds: float = 5.0,
    ) -> None:
        self._stop = stop
        self._heartbeat_seconds = heartbeat_seconds
        self._pollers = Pollers(recorder, stop)
        self._runner = PollRunner(self._pollers)
        self._extra_polls = ExtraPolls(self._pollers, self._runner, self._run_later, stop)
        self.watch = Watch(hooks or Hooks(), self._pollers.hanging)
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

    @property
    def fatal(self) -> ExporterError | None:
        """What the daemon has to end for, once SIGTERM was sent because of it."""
        return self._runner.fatal

    def start(self) -> None:
        """Begin to poll, in threads of its own."""
        pollers = self._pollers.in_force()
        for poller in pollers.values():
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
        _log.info("polling", extra={"event": "started", "accounts": len(pollers)})

    def poll_soon(self, account: str) -> None:
        """Let the account's next poll be due at once, from any thread.

        Requests until it begins count as one. At most one such poll begins each second, and it
        costs the grid no tick.
        """
        self._extra_polls.request(account)

    def stop(self) -> bool:
        """Begin no more polls, and wait a few seconds for those under way.

        Returns:
            Whether all have ended.
        """
        self._stop.set()
        self._scheduler.shutdown(wait=False)
        cut_short = self._pollers.wait_until_idle(_STOP_SECONDS)
        _log.info("stopped", extra={"event": "stopped", "polls_cut_short": cut_short})
        return not cut_short

    def release(self, seconds: float) -> None:
        """Let go of the claims of polls that were cut short, if that takes no longer than this."""
        release = self._pollers.recorder.release
        thread = threading.Thread(target=release, name="release", daemon=True)
        thread.start()
        thread.join(seconds)

    def replace(self, recorder: Recorder) -> None:
        """Poll with another recorder from now on, and close the former once it is idle.

        An account that stays, with the same interval, keeps its place on the grid.
        """
        former = self._pollers.in_force()
        self._pollers.replace(recorder)
        pollers = self._pollers.in_force()
        for account in former.keys() - pollers.keys():
            self._scheduler.remove_job(_job(account))
        for account, poller in pollers.items():
            if account not in former:
                self._add(poller)
            elif poller.timing.interval != former[account].timing.interval:
                self._scheduler.reschedule_job(_job(account), trigger=self._grid(poller))

    def _add(self, poller: Poller) -> None:
        self._scheduler.add_job(
            self._runner.tick, self._grid(poller), args=(poller.account,), id=_job(poller.account)
        )

    def _grid(self, poller: Poller) -> Grid:
        return Grid(poller.account, poller.timing.interval, daemon=self._name)

    def _run_later(self, delay: float, function: Callable[[], None]) -> None:
        at = datetime.now(self._zone) + timedelta(seconds=delay)
        self._scheduler.add_job(function, DateTrigger(at), executor="extra")

    def _maintain(self) -> None:
        self._pollers.recorder.maintain()


def _job(account: str) -> str:
    return f"account {account}"
