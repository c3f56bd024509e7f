"""Events cause extra polls; the test controls the clock and the scheduler."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from exporter.daemon import extra_polls, pollers
from exporter.daemon.extra_polls import ExtraPolls
from exporter.daemon.pollers import Pollers
from exporter.daemon.runner import PollRunner
from exporter.errors import Exit
from tests.daemon.conftest import Account

if TYPE_CHECKING:
    from exporter.recording.recorder import Recorder


class Setting:
    """One account that is polled only because of events.

    Attributes:
        now: the time on the clock, in seconds.
        polls: when each poll began, on that clock.
    """

    def __init__(self, make_recorder: "Callable[..., Recorder]") -> None:
        self.now = 100.0
        self.polls: list[float] = []
        self.account = Account("main", self.polled)
        self.stop = threading.Event()
        self.pollers = Pollers(make_recorder(self.account), self.stop)
        self.runner = PollRunner(self.pollers)
        self.extra = ExtraPolls(self.pollers, self.runner, self._run_later, self.stop)
        self._due: list[tuple[float, Callable[[], None]]] = []

    def polled(self) -> Exit | None:
        self.polls.append(self.now)
        return Exit.OK

    def _run_later(self, delay: float, function: Callable[[], None]) -> None:
        self._due.append((self.now + delay, function))

    def advance_to(self, end: float) -> None:
        """Advance the clock, and run what becomes due on the way."""
        while self._due and min(at for at, _ in self._due) <= end:
            index = min(range(len(self._due)), key=lambda each: self._due[each][0])
            self.now, function = self._due.pop(index)
            function()
        self.now = end


@pytest.fixture
def setting(
    recorder_of_accounts: "Callable[..., Recorder]", monkeypatch: pytest.MonkeyPatch
) -> Setting:
    """Return the setting, whose clock replaces the real one."""
    made = Setting(recorder_of_accounts)
    for module in (extra_polls, pollers):
        monkeypatch.setattr(module, "elapsed", lambda: made.now)
    return made


def test_an_event_causes_a_poll_at_once_and_many_events_cause_one_a_second(
    setting: Setting,
) -> None:
    for number in range(30):
        setting.advance_to(100.0 + 0.1 * number)
        setting.extra.request("main")
    setting.advance_to(110.0)
    assert setting.polls == pytest.approx([100.0, 101.0, 102.0, 103.0])


def test_events_until_the_poll_begins_count_as_one(setting: Setting) -> None:
    for _ in range(1_000):
        setting.extra.request("main")
    setting.advance_to(110.0)
    assert setting.polls == [100.0]


def test_a_poll_that_began_before_the_event_does_not_count_for_it(setting: Setting) -> None:
    (poller, _) = setting.pollers.begin("main", is_tick=True)
    assert poller is not None
    setting.advance_to(100.05)
    setting.extra.request("main")
    setting.advance_to(100.9)
    assert setting.polls == []
    setting.pollers.end(poller)
    setting.advance_to(101.2)
    assert len(setting.polls) == 1


def test_a_poll_that_began_after_the_event_counts_for_it(setting: Setting) -> None:
    setting.extra.request("main")
    (poller, _) = setting.pollers.begin("main", is_tick=True)
    assert poller is not None
    setting.advance_to(110.0)
    setting.pollers.end(poller)
    setting.advance_to(120.0)
    assert setting.polls == []


def test_it_tries_three_times_while_another_exporter_polls_the_account(setting: Setting) -> None:
    def busy() -> None:
        setting.polls.append(setting.now)

    setting.account.act = busy
    setting.extra.request("main")
    setting.advance_to(110.0)
    assert setting.polls == pytest.approx([100.0, 101.0, 102.0])


def test_no_poll_follows_for_an_unknown_account_or_after_a_stop(setting: Setting) -> None:
    setting.extra.request("gone")
    setting.extra.request("main")
    setting.stop.set()
    setting.extra.request("main")
    setting.advance_to(110.0)
    assert setting.polls == []
