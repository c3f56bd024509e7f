"""Which poller may poll: one at a time of an account, and none of a recorder that was closed."""

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


def test_a_poll_begins_once_the_one_before_has_ended(recorder_of_accounts: MakeRecorder) -> None:
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
def test_only_a_tick_is_made_up_for_and_once(
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


def test_nothing_begins_after_the_stop_or_for_an_account_that_is_gone(
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


def test_a_recorder_that_is_replaced_is_closed_once_its_last_poll_has_ended(
    recorder_of_accounts: MakeRecorder,
) -> None:
    first, second, third = (recorder_of_accounts(Account("main")) for _ in range(3))
    pollers = Pollers(first, threading.Event())
    (poller, _) = pollers.begin("main", is_tick=True)
    assert poller is not None
    pollers.replace(second)
    # The new poller does not wait for the old one, whose recorder must stay open meanwhile.
    assert pollers.begin("main", is_tick=True).poller is second.pollers[0]
    pollers.end(second.pollers[0])
    pollers.replace(third)
    assert [each.closed for each in (first, second, third)] == [False, True, False]  # type: ignore[attr-defined]  # a recorder to this test
    assert pollers.recorder is third
    assert pollers.wait_until_idle(0.0) == 1
    pollers.end(poller)
    assert [each.closed for each in (first, second, third)] == [True, True, False]  # type: ignore[attr-defined]  # as said
    assert pollers.wait_until_idle(60.0) == 0


def test_waiting_ends_with_the_poll(recorder_of_accounts: MakeRecorder) -> None:
    pollers = Pollers(recorder_of_accounts(Account("main")), threading.Event())
    (poller, _) = pollers.begin("main", is_tick=True)
    assert poller is not None
    ending = threading.Timer(0.05, pollers.end, [poller])
    ending.start()
    assert pollers.wait_until_idle(60.0) == 0
    ending.join()


def test_a_poll_hangs_if_it_takes_minutes_longer_than_its_deadline(
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
