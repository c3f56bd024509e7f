"""An account's head keeps its coverage, and the causes of gaps."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import Outcome

if TYPE_CHECKING:
    from tests.history.conftest import History


def test_the_digest_is_kept_only_while_nothing_is_missing(history: "History") -> None:
    a, b = history.group("a"), history.group("b")
    history.confirm_removal = 3
    history.observe(0, a, b, digest="both")
    assert history.claim(1).digest == "both"
    history.observe(60, a, digest="one")
    assert history.claim(61).digest is None
    history.observe(120, a, digest="one")
    assert history.claim(121).digest is None
    assert history.observe(180, a, digest="one").removed == 1
    assert history.claim(181).digest == "one"


def stretches(history: "History") -> list[tuple[Any, Any, int]]:
    """Return the start, the end and the polls of each stretch of coverage."""
    return [(row["started_at"], row["ended_at"], row["polls"]) for row in history.rows("coverage")]


def test_coverage_bridges_2_5_intervals_and_no_more(history: "History") -> None:
    history.observe(0)
    history.observe(150)
    assert stretches(history) == [(history.at(0), history.at(150), 2)]

    history.observe(300.000001)
    later = history.at(300.000001)
    assert stretches(history) == [(history.at(0), history.at(150), 2), (later, later, 1)]
    assert history.row("coverage_gaps") == {
        "account": "main",
        "gap_start": history.at(150),
        "gap_end": later,
        "seconds": 150.000001,
        "cause": "not_running",
    }


def test_coverage_depends_on_the_interval_of_the_later_poll(history: "History") -> None:
    history.observe(0)
    history.interval = 10.0
    history.observe(26)
    history.interval = 3600.0
    history.observe(9026)
    assert [polls for _, _, polls in stretches(history)] == [1, 2]


def test_there_is_no_gap_before_the_first_observation(history: "History") -> None:
    history.fail(0)
    history.observe(600)
    assert history.rows("coverage_gaps") == []


def causes(history: "History", *outcomes: Outcome) -> list[str]:
    """Write a gap in which polls fail with these outcomes, and return the causes of all gaps."""
    history.observe(0)
    for number, outcome in enumerate(outcomes, start=1):
        history.fail(60 * number, outcome)
    history.observe(3600)
    return [row["cause"] for row in history.rows("coverage_gaps")]


@pytest.mark.parametrize(
    ("outcomes", "cause"),
    [
        ([], "not_running"),
        (["timeout"], "timeout"),
        (["timeout", "timeout", "server_error"], "timeout"),
        (["server_error", "timeout", "timeout"], "timeout"),
        (["timeout", "server_error"], "server_error"),
        (["server_error", "timeout"], "timeout"),
    ],
)
def test_the_cause_of_a_gap_is_its_most_frequent_and_then_latest_outcome(
    history: "History", outcomes: list[Outcome], cause: str
) -> None:
    assert causes(history, *outcomes) == [cause]


def test_failures_before_the_last_observation_cause_no_gap(history: "History") -> None:
    history.observe(0)
    history.fail(60, "timeout")
    history.observe(120)
    history.observe(3600)
    assert [row["cause"] for row in history.rows("coverage_gaps")] == ["not_running"]


def test_lost_polls_are_the_cause_of_their_gap(history: "History") -> None:
    history.observe(0)
    for seconds in (60, 120):
        history.store.note_loss("main", polls=2, last_started_at=history.at(seconds))
    history.fail(180, "timeout")
    history.observe(3600)
    history.observe(7200)
    assert [row["cause"] for row in history.rows("coverage_gaps")] == ["not_kept", "not_running"]


def test_polls_lost_before_the_last_observation_cause_no_gap(history: "History") -> None:
    history.observe(120)
    history.store.note_loss("main", polls=2, last_started_at=history.at(60))
    history.observe(3600)
    assert [row["cause"] for row in history.rows("coverage_gaps")] == ["not_running"]


def cause_of_the_gap(history: "History") -> str:
    (row,) = history.rows("coverage_gaps")
    return str(row["cause"])


def test_polls_written_after_their_gap_update_its_cause(history: "History") -> None:
    history.observe(0)
    history.observe(3600)
    assert cause_of_the_gap(history) == "not_running"
    # These polls come from the spool of an exporter that could not reach the database.
    waiting: list[Outcome] = ["server_error", "timeout", "timeout", "ok"]
    causes = []
    for number, outcome in enumerate(waiting, start=1):
        history.write(history.poll(600 * number, outcome=outcome), None)
        causes.append(cause_of_the_gap(history))
    assert causes == ["server_error", "timeout", "timeout", "timeout"]
    # The following polls lie in no gap.
    history.write(history.poll(-60, outcome="unauthorized"), None)
    history.observe(3660)
    for _ in range(3):
        history.write(history.poll(3630, outcome="unauthorized"), None)
    assert cause_of_the_gap(history) == "timeout"


def test_polls_lost_in_a_gap_are_its_cause_if_no_poll_in_it_is_known(history: "History") -> None:
    history.observe(0)
    history.observe(3600)
    history.store.note_loss("main", polls=9, last_started_at=history.at(60))
    assert cause_of_the_gap(history) == "not_kept"
    # The number of lost polls is not kept, so one known poll cannot outnumber them.
    history.write(history.poll(120, outcome="timeout"), None)
    assert cause_of_the_gap(history) == "not_kept"


def test_an_observation_is_always_dated_after_the_previous_one(history: "History") -> None:
    history.observe(60)
    history.observe(60)
    assert history.claim(70).observed_at == history.at(60) + timedelta(microseconds=1)
