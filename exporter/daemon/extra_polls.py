"""Poll when an event asks for it, so that the snapshots follow within about a second."""

import threading
from collections.abc import Callable

from exporter.clock import elapsed
from exporter.daemon.pollers import Pollers
from exporter.daemon.runner import PollRunner

_BETWEEN_SECONDS = 1.0  # between two such polls of an account
_MAX_ATTEMPTS = 3  # while another exporter is polling the account
_RECHECK_SECONDS = 0.2  # until it checks again whether the poll under way has ended

RunLater = Callable[[float, Callable[[], None]], None]
"""Runs a function in a thread of its own, after a delay in seconds."""


class ExtraPolls:
    """Poll on request, beside the grid: at most one such poll of an account begins each second.

    Args:
        pollers: know which account may be polled now.
        runner: runs their polls.
        run_later: schedules a function.
        stop: nothing is requested once this is set.
    """

    def __init__(
        self, pollers: Pollers, runner: PollRunner, run_later: RunLater, stop: threading.Event
    ) -> None:
        self._pollers = pollers
        self._runner = runner
        self._run_later = run_later
        self._stop = stop
        self._lock = threading.Lock()  # guards the next two
        self._requested: dict[str, float] = {}  # accounts whose poll is due, and since when
        self._began: dict[str, float] = {}  # when the latest extra poll of an account began

    def request(self, account: str) -> None:
        """Let a poll of an account be due at once; requests until it begins count as one."""
        if account not in self._pollers.in_force():
            return
        with self._lock:
            now = elapsed()
            began = self._began.get(account)
            delay = 0.0 if began is None else max(0.0, began + _BETWEEN_SECONDS - now)
            self._request(account, now, attempt=1, delay=delay)

    def _request(self, account: str, requested_at: float, *, attempt: int, delay: float) -> None:
        """Let a poll be due after a delay in seconds; the caller holds the lock."""
        if account in self._requested or self._stop.is_set():
            return
        self._requested[account] = requested_at
        self._run_later(delay, lambda: self._run(account, attempt))

    def _run(self, account: str, attempt: int) -> None:
        """Poll, unless a poll that began after the event is under way."""
        with self._lock:
            requested_at = self._requested.pop(account)
            poller, under_way_since = self._pollers.begin(account, is_tick=False)
            if poller is not None:
                self._began[account] = elapsed()
            elif under_way_since is not None and under_way_since < requested_at:
                self._request(account, requested_at, attempt=attempt, delay=_RECHECK_SECONDS)
        if poller is None:
            return
        if not self._runner.run(poller, requested_at=requested_at) and attempt < _MAX_ATTEMPTS:
            with self._lock:
                self._request(account, requested_at, attempt=attempt + 1, delay=_BETWEEN_SECONDS)
