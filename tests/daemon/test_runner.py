"""A thread of the scheduler runs a poll, and handles its result."""

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from exporter.daemon.pollers import Pollers
from exporter.daemon.runner import PollRunner
from exporter.errors import Exit, SchemaError
from tests.daemon.conftest import Account

if TYPE_CHECKING:
    from exporter.recording.recorder import Recorder

MakeRecorder = Callable[..., "Recorder"]


@pytest.fixture
def account() -> Account:
    """Return an account to poll."""
    return Account("main")


@pytest.fixture
def pollers(recorder_of_accounts: MakeRecorder, account: Account) -> Pollers:
    """Return the pollers in force: the account's alone."""
    return Pollers(recorder_of_accounts(account), threading.Event())


def test_polls_count_as_the_first_until_one_has_sent_a_request(
    pollers: Pollers, account: Account, recorder_of_accounts: MakeRecorder
) -> None:
    runner = PollRunner(pollers)
    exits: list[Exit | None] = [None, Exit.UNAUTHORIZED, Exit.OK]
    account.act = lambda: exits.pop(0)
    for _ in range(3):
        runner.tick("main")
    assert [each["first"] for each in account.calls] == [True, True, False]
    # The same holds after a reload, because the key may have changed.
    successor = Account("main")
    pollers.replace(recorder_of_accounts(successor))
    runner.tick("main")
    assert successor.calls == [{"first": True, "requested": None}]


def test_a_tick_missed_during_an_extra_poll_runs_on_the_same_thread(
    pollers: Pollers, account: Account
) -> None:
    runner = PollRunner(pollers)

    def tick_meanwhile() -> Exit:
        if len(account.calls) == 1:
            runner.tick("main")
            assert len(account.calls) == 1
        return Exit.OK

    account.act = tick_meanwhile
    (poller, _) = pollers.begin("main", is_tick=False)
    assert poller is not None
    assert runner.run(poller, requested_at=0.0)
    requested = [each["requested"] for each in account.calls]
    assert requested[0] > 0.0  # seconds since the event
    assert requested[1:] == [None]


def test_a_run_returns_whether_it_was_a_poll(pollers: Pollers, account: Account) -> None:
    runner = PollRunner(pollers)
    exits: list[Exit | None] = [None, Exit.OK, Exit.UNAVAILABLE]
    account.act = lambda: exits.pop(0)
    for was_a_poll in (False, True, True):
        (poller, _) = pollers.begin("main", is_tick=False)
        assert poller is not None
        assert runner.run(poller) == was_a_poll


def test_a_defect_is_logged_and_the_next_tick_polls(
    pollers: Pollers, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Exit:
        raise ZeroDivisionError

    runner = PollRunner(pollers)
    account.act = fail
    for _ in range(2):
        runner.tick("main")
    assert [(vars(each)["event"], vars(each)["account"]) for each in caplog.records] == [
        ("unexpected", "main")
    ] * 2
    assert runner.fatal is None


def test_a_schema_that_turns_out_too_new_ends_the_process(
    pollers: Pollers, account: Account
) -> None:
    error = SchemaError("the schema is newer")

    def fail() -> Exit:
        raise error

    runner = PollRunner(pollers)
    account.act = fail
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        runner.tick("main")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert runner.fatal is error
    assert received == [signal.SIGTERM]
