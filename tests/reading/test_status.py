"""Test what `status` finds on both databases, and how it shows it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import ConfigurationError
from exporter.model import OrderGroup
from exporter.reading.status import AccountStatus, Gap, LastPoll, status
from exporter.reading.status_text import render_table, to_json
from exporter.reading.stream_status import StreamGap, StreamStatus
from tests.support.traffic import recorded_statements

A, A_OFF, B = OrderGroup("a", True), OrderGroup("a", False), OrderGroup("b", True)
HOUR = 3_600
DAY = 24 * HOUR

NEVER_LISTENED = StreamStatus(
    connected_since=None,
    last_event_at=None,
    gap=StreamGap(since=None, cause="not_listening"),
    triggers=0,
)


def one(recorder: Any, seconds: float, **how: Any) -> AccountStatus:
    (found,) = status(recorder.url, [("main", 60.0)], now=recorder.at(seconds), **how)
    return found


def test_a_healthy_account(recorder: Any) -> None:
    recorder.ok(0, [A])
    recorder.ok(60, [A_OFF, B])
    assert one(recorder, 72) == AccountStatus(
        account="main",
        last_poll=LastPoll(started_at=recorder.at(59.8), age=12.2, outcome="ok", error=None),
        observed_at=recorder.at(60),
        age=12.0,
        max_age=150.0,
        stale=False,
        groups=2,
        missing=0,
        changes=2,  # groups of the first poll are no changes
        gap=None,
        spooled=0,
        stream=NEVER_LISTENED,
    )


def test_an_account_that_fails(recorder: Any) -> None:
    recorder.ok(0, [A])
    recorder.fail(60, "timeout")
    recorder.fail(120, "unauthorized")
    recorder.fail(180, "unauthorized")
    assert one(recorder, 150).gap is None
    found = one(recorder, 190)
    assert found.stale
    assert found.gap == Gap(since=recorder.at(0), cause="unauthorized")
    assert found.last_poll is not None
    assert (found.last_poll.outcome, found.last_poll.error) == (
        "unauthorized",
        'E1: said "no", twice',
    )
    assert found.groups == 1


def test_failures_before_the_last_observation_are_no_cause(recorder: Any) -> None:
    recorder.fail(0, "unauthorized")
    recorder.ok(60, [A])
    assert one(recorder, HOUR).gap == Gap(since=recorder.at(60), cause="not_running")


def test_the_maximum_age_can_be_set(recorder: Any) -> None:
    recorder.ok(0, [])
    assert not one(recorder, 100).stale
    assert one(recorder, 100, max_age=99.0).stale
    found = one(recorder, 200, max_age=201.0)
    assert not found.stale
    assert found.gap is not None


def test_never_observed_and_never_polled(recorder: Any) -> None:
    recorder.fail(0, "rejected")
    main, other = status(
        recorder.url,
        [("main", 60.0), ("other", 60.0)],
        now=recorder.at(10),
        spooled={"other": 3},
        switched_off={"other"},
    )
    assert (main.stream_enabled, other.stream_enabled) == (True, False)
    assert render_table([main, other]).count("the configuration switches its stream off") == 1
    assert (main.age, main.stale, main.gap) == (None, True, Gap(since=None, cause="rejected"))
    assert (other.last_poll, other.stale) == (None, True)
    assert other.gap == Gap(since=None, cause="not_running")
    assert (main.spooled, other.spooled) == (0, 3)


def test_changes_count_one_day_of_one_account(recorder: Any) -> None:
    recorder.ok(0, [A])
    recorder.ok(2 * HOUR, [B])
    recorder.ok(2 * HOUR + 60, [B])
    recorder.ok(2 * HOUR, [A, B], account="other")
    assert (
        one(recorder, DAY).changes == 2
    )  # b appeared, a disappeared; a's first state is no change
    assert one(recorder, DAY + HOUR).changes == 2
    assert one(recorder, 2 * DAY).changes == 0


def test_a_clock_that_is_ahead_makes_nothing_negative(recorder: Any) -> None:
    recorder.ok(60, [A])
    assert one(recorder, 0).age == 0.0


def test_the_number_of_statements_does_not_depend_on_the_number_of_accounts(
    recorder: Any,
) -> None:
    for number in range(10):
        name = f"account-{number}"
        recorder.ok(0, [A, B], account=name)
        recorder.ok(60, [A_OFF, B], account=name)
        recorder.fail(120, "timeout", account=name)
    statements = {}
    for count in (3, 300):
        configured = [(f"account-{number}", 60.0) for number in range(count)]
        with recorded_statements() as sent:
            found = status(recorder.url, configured, now=recorder.at(HOUR))
        statements[count] = len(sent)
        assert [each.account for each in found] == [name for name, _ in configured]
        assert {each.gap.cause for each in found[:10] if each.gap} == {"timeout"}
        assert {(each.groups, each.changes) for each in found[:10]} == {(2, 1)}
        assert all(each.groups is None and each.last_poll is None for each in found[10:])
    assert statements[3] == statements[300]


def test_a_missing_database_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run-once"):
        status(f"sqlite:///{tmp_path}/absent.db", [], now=datetime.now(UTC))


@pytest.fixture
def three(sqlite_recorder: Any) -> list[AccountStatus]:
    """Return a healthy account, one with refused credentials, and one that was never polled."""
    for hour in range(3):
        sqlite_recorder.ok(hour * HOUR, [A])
    sqlite_recorder.ok(0, [A, B], account="日本")
    sqlite_recorder.fail(2 * HOUR, "unauthorized", account="日本")
    return status(
        sqlite_recorder.url,
        [("main", 60.0), ("日本", 60.0), ("new", 60.0)],
        now=sqlite_recorder.at(2 * HOUR + 12),
        spooled={"new": 2},
    )


def test_the_table(three: list[AccountStatus]) -> None:
    assert render_table(three).splitlines() == [
        "ACCOUNT  STATE  OBSERVED  GROUPS  CHANGES 24H  LAST POLL",
        "main     ok     12 s ago       1            0  12 s ago: ok",
        "日本     stale  2 h ago        2            0  12 s ago: unauthorized",
        (
            "  not observed since 2026-03-01T12:00:00.123456Z, because the exchange refused the key"
            " (unauthorized)"
        ),
        '  last poll: E1: said "no", twice',
        "new      never  -              -            0  -",
        "  never observed, because the exporter was not running (not_running)",
        "  waiting for the database in the spool: 2",
    ]


def test_the_json(three: list[AccountStatus]) -> None:
    main, japan, new = json.loads(to_json(three))["accounts"]
    assert main == {
        "account": "main",
        "stale": False,
        "observed_at": "2026-03-01T14:00:00.123456Z",
        "age_seconds": 12.0,
        "max_age_seconds": 150.0,
        "groups": 1,
        "groups_missing": 0,
        "changes_24h": 0,
        "last_poll": {
            "started_at": "2026-03-01T13:59:59.923456Z",
            "age_seconds": 12.2,
            "outcome": "ok",
            "error": None,
        },
        "gap": None,
        "spooled": 0,
        "stream": {
            "connected_since": None,
            "last_event_at": None,
            "gap": {"since": None, "cause": "not_listening"},
            "triggers_24h": 0,
            "enabled": True,
        },
    }
    assert japan["gap"] == {"since": "2026-03-01T12:00:00.123456Z", "cause": "unauthorized"}
    assert new["gap"] == {"since": None, "cause": "not_running"}
    assert (new["last_poll"], new["observed_at"], new["groups"]) == (None, None, None)
    assert list(main) == list(japan) == list(new)
