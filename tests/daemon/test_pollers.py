"""An account is polled by one poller at a time, and never by one of a closed recorder."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from exporter.daemon import pollers as module
from exporter.daemon.pollers import Pollers, Turn
from exporter.daemon.watch import HANGS_AFTER
from tests.daemon.conftest import Account

if TYPE_CHECKING:
    from exporter.recording.recorder import Recorder

MakeRecorder = Callable[..., "Recorder"]


def test_a_poll_begins_only_after_the_previous_one_has_ended(
    recorder_of_accounts: MakeRecorder,
) -> None:
    recorder = recorder_of_accounts(Account("one"), Account("other"))
    one, other = recorder.pollers
    pollers = Pollers(recorder, threading.Event())
    assert pollers.begin("one", is_tick=True).poller is one
    poller, since = pollers.begin("one", is_tick=False)
    assert poller is None
    assert since is not None
    assert pollers.begin("other", is_tick=True).poller is other
    pollers.end(one)
    assert pollers.begin("one", is_tick=True).poller is one


@pytest.mark.parametrize("is_tick", [True, False])
def test_only_a_missed_tick_is_caught_up_and_only_once(
    recorder_of_accounts: MakeRecorder, is_tick: bool
) -> None:
    pollers = Pollers(recorder_of_accounts(Account("main")), threading.Event())
    (poller, _) = pollers.begin("main", is_tick=False)
    assert poller is not None
    assert not pollers.take_late_tick(poller)
    for _ in range(2):
        pollers.begin("main", is_tick=is_tick)
    assert pollers.take_late_tick(poller) == is_tick
    assert not pollers.take_late_tick(poller)


def test_no_poll_begins_after_a_stop_or_for_a_removed_account(
    recorder_of_accounts: MakeRecorder,
) -> None:
    stop = threading.Event()
    pollers = Pollers(recorder_of_accounts(Account("main")), stop)
    assert pollers.begin("gone", is_tick=True) == Turn(None)
    (poller, _) = pollers.begin("main", is_tick=True)
    assert poller is not None
    pollers.begin("main", is_tick=True)
    stop.set()
    assert not pollers.take_late_tick(poller)
    pollers.end(poller)
    assert pollers.begin("main", is_tick=True) == Turn(None)


def test_a_replaced_recorder_is_closed_after_its_last_poll(
    recorder_of_accounts: MakeRecorder,
) -> None:
    first, second, third = (recorder_of_accounts(Account("main")) for _ in range(3))
    pollers = Pollers(first, threading.Event())
    (poller, _) = pollers.begin("main", is_tick=True)
    assert poller is not None
    pollers.replace(second)
    # The new poller does not wait for the old one, whose recorder stays open until it has ended.
    assert pollers.begin("main", is_tick=True).poller is second.pollers[0]
    pollers.end(second.pollers[0])
    pollers.replace(third)
    assert [each.closed for each in (first, second, third)] == [False, True, False]  # type: ignore[attr-defined]  # `Accounts` stands in for a recorder
    assert pollers.recorder is third
    assert pollers.wait_until_idle(0.0) == 1
    pollers.end(poller)
    assert [each.closed for each in (first, second, third)] == [True, True, False]  # type: ignore[attr-defined]  # likewise
    assert pollers.wait_until_idle(60.0) == 0


def test_waiting_until_idle_ends_with_the_poll(recorder_of_accounts: MakeRecorder) -> None:
    pollers = Pollers(recorder_of_accounts(Account("main")), threading.Event())
    (poller, _) = pollers.begin("main", is_tick=True)
    assert poller is not None
    ending = threading.Timer(0.05, pollers.end, [poller])
    ending.start()
    assert pollers.wait_until_idle(60.0) == 0
    ending.join()


def test_a_poll_minutes_past_its_deadline_counts_as_hanging(
    recorder_of_accounts: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "elapsed", lambda: now[0])
    pollers = Pollers(recorder_of_accounts(Account("slow"), Account("idle")), threading.Event())
    pollers.begin("slow", is_tick=True)
    now[0] = 20.0 + HANGS_AFTER
    assert pollers.hanging() == []
    now[0] += 1.0
    assert pollers.hanging() == ["slow"]
