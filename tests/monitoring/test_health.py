"""Freshness of each account by the steady clock, and what is said about it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from exporter.errors import Exit
from exporter.hooks import AccountsChanged, Heartbeat, PollFinished, StreamChanged, TickSkipped
from exporter.monitoring import health as module
from exporter.monitoring.health import Health, outcome_of
from tests.support.clocks import make_elapsed_by_hand
from tests.support.events import AT, poll_finished


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass on the steady clock alone."""
    return make_elapsed_by_hand(module, monkeypatch)


def ok(account: str = "main") -> PollFinished:
    now = datetime.now(UTC)
    return poll_finished(now, account=account, last_success_at=now, groups=3)


def failed(**fields: Any) -> PollFinished:
    return poll_finished(
        outcome="server_error",
        exit_code=Exit.UNAVAILABLE,
        reason="https://exchange.example responded 503",
        **fields,
    )


def test_an_account_is_stale_once_the_next_poll_would_end_a_gap(
    passed: Callable[[float], None],
) -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    assert health.stale() == {"main": "no success yet"}
    health.receive(ok())
    passed(150.0)  # 2.5 intervals
    assert health.stale() == {}
    passed(0.5)
    assert health.stale() == {"main": "no success for 150 s"}
    # Another exporter polls the account, so its data is fresh.
    health.receive(TickSkipped("main"))
    assert health.stale() == {}


def test_third_parties_hear_the_reason_in_fixed_words_only(
    passed: Callable[[float], None],
) -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    health.receive(failed())
    passed(1.0)
    assert health.stale() == {"main": "no success yet: https://exchange.example responded 503"}
    assert health.stale_outcomes() == {"main": "no success yet: server error"}


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("database", "server error"),
        ("spool", "server error, waits in the spool"),
        ("nowhere", "server error, not kept"),
    ],
)
def test_the_fixed_words_say_where_a_poll_is_kept(kept: str, words: str) -> None:
    assert outcome_of(failed(kept=kept)) == words


def test_a_success_that_the_database_knows_counts_with_its_age(
    passed: Callable[[float], None],
) -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    health.receive(failed(last_success_at=datetime.now(UTC) - timedelta(seconds=100)))
    assert health.stale() == {}
    passed(60.0)
    assert health.stale().keys() == {"main"}


def test_a_reload_keeps_what_is_known_of_an_account_that_stays(
    passed: Callable[[float], None],
) -> None:
    health = Health()
    health.receive(AccountsChanged({"stays": 60.0, "goes": 60.0}))
    for account in ("stays", "goes"):
        health.receive(ok(account))
    passed(30.0)
    health.receive(AccountsChanged({"stays": 10.0, "comes": 60.0}))
    # Its age is the same; its interval is another one.
    assert health.stale() == {"stays": "no success for 30 s", "comes": "no success yet"}
    health.receive(ok("goes"))
    assert health.summary().startswith("2 accounts, 2 stale, 3 order groups, last success ")


def test_the_summary_counts_the_streams_of_the_accounts_that_listen() -> None:
    health = Health()
    intervals = dict.fromkeys(("one", "two", "three"), 60.0)
    health.receive(AccountsChanged(intervals, frozenset(["one", "two"])))
    for account in ("one", "three"):
        health.receive(StreamChanged(account=account, at=AT, connected=True))
    assert "listening to 1 of 2" in health.summary()


def test_the_scheduler_is_stalled_without_heartbeats(passed: Callable[[float], None]) -> None:
    health = Health()
    passed(30.0)
    assert health.moving
    passed(0.1)
    assert not health.moving
    health.receive(Heartbeat())
    assert health.moving
    assert health.stalled_seconds == 0.0
