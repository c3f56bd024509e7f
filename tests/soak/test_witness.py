"""Test that `differences` accepts correct histories and finds every planted fault."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soak.witness import Recorded, Served, State, differences

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = "abcd"
NEVER_SERVED: State = (True, Decimal(999), "")

Groups = dict[str, State]


def state(limit: int) -> State:
    return False, Decimal(limit), ""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def recorded(responses: Sequence[Groups], *, windows: Sequence[tuple[float, float]]) -> Recorded:
    """Return the correct history of one poll a second, each with its response and time window."""
    polls = [
        {
            "id": number,
            "account": "main",
            "outcome": "ok",
            "started_at": at(start),
            "finished_at": at(end),
            "observed_at": at(number),
        }
        for number, (start, end) in enumerate(windows)
    ]
    snapshots: list[dict[str, Any]] = []
    for name in NAMES:
        present: dict[str, Any] | None = None
        for number, groups in enumerate(responses):
            seen = groups.get(name)
            if seen is None:
                gone = number > 0 and name not in responses[number - 1]
                if present is not None and gone:
                    present["valid_to"] = at(number - 1)
                    present = None
            elif present is None or present["state"] != seen:
                if present is not None:
                    present["valid_to"] = at(number)
                present = {
                    "account": "main",
                    "order_group_id": name,
                    "valid_from": at(number),
                    "valid_to": None,
                    "state": seen,
                }
                snapshots.append(present)
    return Recorded(polls=polls, snapshots=snapshots, accounts=[], coverage=[], integrity="ok")


def judged(history: Recorded, served: Sequence[Served]) -> list[str]:
    return differences(history, "main", served, complete=True)


_groups = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3).map(state))


@st.composite
def _histories(draw: st.DrawFn) -> tuple[Recorded, list[Served]]:
    """Draw a correct history in which neighboring polls may overlap, in either order."""
    responses = draw(st.lists(_groups, min_size=2, max_size=8))
    windows, served_at = [], []
    number = 0
    while number < len(responses):
        if number + 1 < len(responses) and draw(st.booleans()):
            # Both responses were served while both polls ran.
            windows += [(number - 0.4, number + 1.1), (number - 0.3, number + 1.2)]
            pair = [number + 0.1, number + 0.2]
            served_at += pair if draw(st.booleans()) else pair[::-1]
            number += 2
        else:
            windows.append((number - 0.2, number + 0.2))
            served_at.append(number - 0.1)
            number += 1
    served = sorted(
        (Served(at(when), groups) for when, groups in zip(served_at, responses, strict=True)),
        key=lambda each: each.at,
    )
    return recorded(responses, windows=windows), served


@given(_histories())
def test_a_correct_history_has_no_differences(
    history: tuple[Recorded, list[Served]],
) -> None:
    assert judged(*history) == []


@given(_histories(), st.data())
def test_a_state_that_was_never_served_is_found(
    history: tuple[Recorded, list[Served]], data: st.DataObject
) -> None:
    wrong, served = deepcopy(history[0]), history[1]
    if not wrong.snapshots:
        return
    data.draw(st.sampled_from(wrong.snapshots))["state"] = NEVER_SERVED
    assert judged(wrong, served)


@given(_histories(), st.data())
def test_a_state_that_is_missing_is_found(
    history: tuple[Recorded, list[Served]], data: st.DataObject
) -> None:
    right, served = history
    if not right.snapshots:
        return
    kept = list(right.snapshots)
    kept.remove(data.draw(st.sampled_from(kept)))
    # If polls overlap, another assignment of responses may explain the history without the state.
    faults = judged(replace(right, snapshots=kept), served)
    apart = all(
        before["finished_at"] < after["started_at"]
        for before, after in zip(right.polls, right.polls[1:], strict=False)
    )
    assert faults or not apart


@given(_histories(), st.data())
def test_a_poll_that_is_missing_is_found(
    history: tuple[Recorded, list[Served]], data: st.DataObject
) -> None:
    right, served = history
    kept = list(right.polls)
    kept.remove(data.draw(st.sampled_from(kept)))
    assert judged(replace(right, polls=kept), served)


ONE, TWO, THREE = {"a": state(1)}, {"a": state(2)}, {"a": state(3)}
OVERLAPPING = [(-0.4, 1.1), (-0.3, 1.2), (2.0, 2.2)]
SERVED = [Served(at(0.1), ONE), Served(at(0.2), TWO), Served(at(2.1), THREE)]


@pytest.mark.parametrize(
    ("responses", "is_right"),
    [
        ((ONE, TWO, THREE), True),
        ((TWO, ONE, THREE), True),
        ((ONE, ONE, THREE), False),  # two polls cannot share one response
        ((TWO, TWO, THREE), False),
        ((ONE, THREE, THREE), False),  # served, but to another poll
        ((THREE, TWO, THREE), False),
        ((ONE, TWO, TWO), False),
        ((ONE, TWO, {}), False),
    ],
)
def test_two_overlapping_polls_saw_two_different_responses(
    responses: tuple[Groups, ...], is_right: bool
) -> None:
    faults = judged(recorded(responses, windows=OVERLAPPING), SERVED)
    assert (faults == []) == is_right


def test_each_fault_names_its_poll() -> None:
    history = recorded([ONE, TWO, THREE, ONE], windows=[(n - 0.2, n + 0.2) for n in range(4)])
    served = [
        Served(at(number - 0.1), groups) for number, groups in enumerate((ONE, THREE, THREE, TWO))
    ]
    first, second = judged(history, served)
    assert "(poll 1)" in first
    assert "(poll 3)" in second
    assert "Decimal('2')" in first


def test_a_poll_during_which_nothing_was_served_is_found() -> None:
    history = recorded([ONE], windows=[(-0.2, 0.2)])
    [fault] = judged(history, [Served(at(5), ONE)])
    assert "saw nothing that was served" in fault
