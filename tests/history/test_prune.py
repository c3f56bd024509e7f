"""Pruning drops polls, and changes nothing else, neither now nor in the polls that follow."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.prune import prune
from exporter.history.schema import metadata

VIEWS = (
    "order_groups_current",
    "order_group_history",
    "order_group_changes",
    "coverage_gaps",
)
ALL_BUT_POLLS = (*(set(metadata.tables) - {"polls"}), *VIEWS)


def eventful(history: Any) -> None:
    """Write polls with changes, removals, gaps with causes, and failures at the end."""
    group = history.group
    history.observe(0, group("a"), group("b"))
    history.observe(60, group("a"), group("b", "20.00"))
    history.observe(120, group("a"))
    history.observe(180, group("a"))
    history.fail(240)
    history.fail(300, "unauthorized")
    history.fail(360, "unauthorized")
    history.observe(600, group("a"))
    history.observe_the_same(660)
    history.fail(720, "server_error")
    history.fail(780)


def test_everything_but_polls_stays_as_it_is(history: Any) -> None:
    eventful(history)
    before = history.rows_of(*ALL_BUT_POLLS)
    assert all(before[name] for name in (*VIEWS, "gap_outcomes"))
    assert prune(history.database, before=history.at(100_000), dry_run=False) == 9
    assert history.rows_of(*ALL_BUT_POLLS) == before
    # `status` needs the latest poll and the latest observation, so both stay.
    assert [row["started_at"] for row in history.rows("polls")] == [
        history.at(659.998),
        history.at(779.998),
    ]
    assert prune(history.database, before=history.at(100_000), dry_run=False) == 0


def test_only_old_polls_are_dropped(history: Any) -> None:
    eventful(history)
    assert prune(history.database, before=history.at(-1), dry_run=False) == 0
    # A poll that started exactly at the given instant stays.
    assert prune(history.database, before=history.at(119.998), dry_run=False) == 2
    assert min(row["started_at"] for row in history.rows("polls")) == history.at(119.998)


def test_a_dry_run_counts_and_deletes_nothing(history: Any) -> None:
    eventful(history)
    polls = history.rows("polls")
    assert prune(history.database, before=history.at(100_000), dry_run=True) == 9
    assert history.rows("polls") == polls


@pytest.mark.parametrize("batch", [1, 9, 10])
def test_any_batch_size_drops_the_same_polls(
    history: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.history.prune._PAUSE", 0.0)
    eventful(history)
    assert prune(history.database, before=history.at(100_000), dry_run=False, batch=batch) == 9
    assert len(history.rows("polls")) == 2


def test_an_account_that_was_never_observed_keeps_its_latest_poll(history: Any) -> None:
    history.fail(0)
    history.fail(60, "rejected")
    assert prune(history.database, before=history.at(1_000), dry_run=False) == 1
    assert [row["outcome"] for row in history.rows("polls")] == ["rejected"]


def test_ids_are_never_reused(history: Any) -> None:
    eventful(history)
    highest = max(row["id"] for row in history.rows("polls"))
    prune(history.database, before=history.at(100_000), dry_run=False)
    history.fail(1_000)
    assert max(row["id"] for row in history.rows("polls")) > highest


def test_a_pending_removal_keeps_the_polls_that_missed_the_group(history: Any) -> None:
    history.confirm_removal = 4
    history.observe(0, history.group("a"), history.group("b"))
    history.observe(60, history.group("a"))
    history.fail(90)
    history.observe(120, history.group("a"))
    assert prune(history.database, before=history.at(1_000), dry_run=False) == 2
    assert [row["observed_at"] for row in history.rows("polls")] == [
        history.at(60),
        history.at(120),
    ]
    assert history.observe(180, history.group("a")).removed == 0
    assert history.observe(240, history.group("a")).removed == 1


@pytest.fixture
def twins(
    history: Any, history_of: Callable[[Database], Any], tmp_path: Path
) -> Iterator[tuple[Any, Any]]:
    """Yield two histories for the same polls: one in a database of each kind, one in SQLite."""
    database = Database(f"sqlite:///{tmp_path / 'twin.db'}")
    migrate(database)
    yield history, history_of(database)
    database.close()


@pytest.mark.parametrize("confirm_removal", [1, 2, 3, 4])
def test_pruning_does_not_affect_later_polls(twins: tuple[Any, Any], confirm_removal: int) -> None:
    pruned, whole = twins
    chance = random.Random(confirm_removal)
    seconds = 0.0
    for _ in range(40):
        seconds += chance.choice([60, 60, 60, 400])
        groups = [whole.group(name) for name in "ab" if chance.random() < 0.6]
        fails = chance.random() < 0.15
        for history in twins:
            history.confirm_removal = confirm_removal
            if fails:
                history.fail(seconds)
            else:
                history.observe(seconds, *groups)
        if chance.random() < 0.8:
            prune(pruned.database, before=whole.at(chance.uniform(0, 2 * seconds)), dry_run=False)
    assert len(pruned.rows("polls")) < len(whole.rows("polls")) / 2
    assert pruned.rows_of(*ALL_BUT_POLLS) == whole.rows_of(*ALL_BUT_POLLS)


def test_polling_continues_during_pruning(
    history: Any, history_of: Callable[[Database], Any], database_url: str
) -> None:
    for number in range(60):
        history.fail(number)
    other = history_of(
        Database(database_url)
    )  # a connection of its own, as another process would have
    done = threading.Event()

    def poll() -> None:
        for number in range(60, 90):
            other.fail(number)
        done.set()

    polling = threading.Thread(target=poll)
    polling.start()
    prune(history.database, before=history.at(58.5), dry_run=False, batch=10)
    polling.join()
    other.database.close()
    assert done.is_set()
    assert len(history.rows("polls")) == 90 - 59
