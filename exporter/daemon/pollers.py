"""The pollers in force: those of one account take turns, and a reload replaces them all."""

import threading
from typing import NamedTuple

from exporter.clock import elapsed
from exporter.daemon.watch import HANGS_AFTER
from exporter.recording.poller import Poller
from exporter.recording.recorder import Recorder


class Turn(NamedTuple):
    """Whether a poll may begin.

    Attributes:
        poller: to poll with, until `end`; None if the poll may not begin.
        under_way_since: when the account's poll that is under way began, as `elapsed` counts;
            None if none is.
    """

    poller: Poller | None
    under_way_since: float | None = None


class Pollers:
    """A recorder's pollers, and whether each may poll now; safe from any thread.

    Args:
        recorder: the first one. A recorder that is replaced is closed here, the last one is not.
        stop: no poll begins once this is set.
    """

    def __init__(self, recorder: Recorder, stop: threading.Event) -> None:
        self._stop = stop
        self._changed = threading.Condition()  # guards all below; notified when a poll ends
        self._recorder = recorder
        self._by_account = _by_account(recorder)
        self._began: dict[Poller, float] = {}  # polls under way, and when they began
        self._late_ticks: set[str] = set()  # accounts whose tick came during an extra poll
        self._replaced: list[Recorder] = []  # some of whose polls are still under way

    @property
    def recorder(self) -> Recorder:
        """The recorder in force."""
        with self._changed:
            return self._recorder

    def in_force(self) -> dict[str, Poller]:
        """Return the pollers in force by their accounts."""
        with self._changed:
            return self._by_account

    def begin(self, account: str, *, is_tick: bool) -> Turn:
        """Let a poll of an account begin, unless one is under way.

        Args:
            account: to poll.
            is_tick: whether the grid asks for the poll. A tick that may not begin is remembered:
                the thread whose poll is under way makes up for it.
        """
        with self._changed:
            poller = self._by_account.get(account)
            if poller is None or self._stop.is_set():
                return Turn(None)
            since = self._began.get(poller)
            if since is None:
                self._began[poller] = elapsed()
                return Turn(poller)
            if is_tick:
                self._late_ticks.add(account)
            return Turn(None, since)

    def take_late_tick(self, poller: Poller) -> bool:
        """Return whether a tick of the account came during its poll; it counts once."""
        with self._changed:
            is_late = poller.account in self._late_ticks
            self._late_ticks.discard(poller.account)
            return is_late and not self._stop.is_set()

    def end(self, poller: Poller) -> None:
        """Let the account's next poll begin."""
        with self._changed:
            del self._began[poller]
            self._changed.notify_all()
            some_replaced = bool(self._replaced)
        if some_replaced:
            self._close_replaced()

    def replace(self, recorder: Recorder) -> None:
        """Put another recorder in force, and close the former once it is idle."""
        with self._changed:
            self._replaced.append(self._recorder)
            self._recorder = recorder
            self._by_account = _by_account(recorder)
        self._close_replaced()

    def wait_until_idle(self, seconds: float) -> int:
        """Wait until no poll is under way, but no longer than this; return how many are."""
        until = elapsed() + seconds
        with self._changed:
            while self._began and (left := until - elapsed()) > 0:
                self._changed.wait(left)
            return len(self._began)

    def hanging(self) -> list[str]:
        """Return the accounts whose polls should have ended long ago."""
        now = elapsed()
        with self._changed:
            return [
                poller.account
                for poller, began in self._began.items()
                if now - began > poller.timing.deadline + HANGS_AFTER
            ]

    def _close_replaced(self) -> None:
        with self._changed:
            busy = self._began.keys()
            idle = [each for each in self._replaced if busy.isdisjoint(each.pollers)]
            for each in idle:
                self._replaced.remove(each)
        for each in idle:
            each.close()


def _by_account(recorder: Recorder) -> dict[str, Poller]:
    return {poller.account: poller for poller in recorder.pollers}
