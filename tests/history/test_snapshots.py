"""Each column of a snapshot has its meaning, from a group's first observation to its removal."""

from typing import TYPE_CHECKING, Any

import pytest

from exporter.history.store import Store

if TYPE_CHECKING:
    from exporter.model import OrderGroup
    from tests.history.conftest import History

# SQL, JSON, LIKE or drivers might misinterpret these ids; the last one is the longest possible.
HARD_IDS = [
    "'; DROP TABLE polls; --",
    'a"b\\c',
    "%",
    "_",
    "%s %(x)s :id ? $1 {}",
    "🦀 ü \u2028 \ufffe",
    "a ",
    "A",
    "🦀" * 256,
]


def snapshots(history: "History", group_id: str = "a") -> list[dict[str, Any]]:
    return [
        row for row in history.rows("order_group_snapshots") if row["order_group_id"] == group_id
    ]


def snapshot(history: "History", **expected: Any) -> None:
    """Check that there is one snapshot, and that it has these values."""
    [row] = snapshots(history)
    assert {name: row[name] for name in expected} == expected


def poll_ids(history: "History") -> list[int]:
    return [row["id"] for row in history.rows("polls")]


def test_a_new_state_is_open_and_seen_by_each_poll(history: "History") -> None:
    history.observe(0, history.group("a"))
    history.observe(60, history.group("a"))

    snapshot(
        history,
        valid_from=history.at(0),
        not_before=None,
        missing_since=None,
        last_seen_at=None,
        valid_to=None,
        end_reason=None,
        first_poll_id=poll_ids(history)[0],
        last_poll_id=None,
    )


def test_a_group_that_appears_was_absent_at_the_previous_poll(history: "History") -> None:
    history.observe(0)
    history.observe(60, history.group("a"))

    snapshot(history, valid_from=history.at(60), not_before=history.at(0))


def test_a_new_state_closes_the_previous_one_at_the_poll_that_saw_it(history: "History") -> None:
    for number, limit in enumerate(["1.00", "1.00", "2.00"]):
        history.observe(60 * number, history.group("a", limit))

    ids = poll_ids(history)
    before, after = snapshots(history)
    assert (
        before
        | {
            "valid_to": history.at(120),
            "end_reason": "changed",
            "last_seen_at": history.at(60),
            "first_poll_id": ids[0],
            "last_poll_id": ids[1],
        }
        == before
    )
    assert (
        after
        | {
            "valid_from": history.at(120),
            "not_before": history.at(60),
            "valid_to": None,
            "first_poll_id": ids[2],
            "last_poll_id": None,
        }
        == after
    )


@pytest.mark.parametrize("confirm_removal", [1, 2, 3, 5])
def test_a_removal_needs_enough_polls_and_is_dated_from_the_first_that_missed(
    history: "History", confirm_removal: int
) -> None:
    history.confirm_removal = confirm_removal
    history.observe(0, history.group("a"))
    for number in range(1, confirm_removal):
        history.observe(60 * number)
        history.fail(60 * number + 30)  # a failed poll confirms nothing
        snapshot(
            history,
            missing_since=history.at(60),
            last_seen_at=history.at(0),
            valid_to=None,
            last_poll_id=poll_ids(history)[0],
        )
    history.observe(60 * confirm_removal)

    snapshot(
        history,
        valid_to=history.at(60),
        end_reason="removed",
        missing_since=None,
        last_seen_at=history.at(0),
        last_poll_id=poll_ids(history)[0],
    )
    assert history.as_of(59.999999)
    assert not history.as_of(60)


def test_an_identical_response_confirms_a_removal(history: "History") -> None:
    history.observe(0, history.group("a"))
    history.observe(60, digest="without")
    assert history.observe(120, digest="without").removed == 1


def test_a_group_that_one_poll_misses_leaves_no_trace(history: "History") -> None:
    history.observe(0, history.group("a"))
    before = snapshots(history)
    history.observe(60)
    history.observe(120, history.group("a"))

    assert snapshots(history) == before


def test_two_separate_misses_are_no_removal(history: "History") -> None:
    for number in range(6):
        history.observe(60 * number, *[history.group("a")] * (number % 2 == 0))

    snapshot(history, valid_to=None, missing_since=history.at(300), last_seen_at=history.at(240))


def test_a_missing_group_that_returns_changed_has_changed_at_that_poll(history: "History") -> None:
    history.observe(0, history.group("a", "1.00"))
    history.observe(60)
    history.observe(120, history.group("a", "2.00"))

    before, after = snapshots(history)
    assert (before["valid_to"], before["end_reason"]) == (history.at(120), "changed")
    assert (before["last_seen_at"], before["missing_since"]) == (history.at(0), None)
    assert (after["valid_from"], after["not_before"]) == (history.at(120), history.at(60))


def test_a_removed_group_that_returns_gets_another_snapshot(history: "History") -> None:
    for number, groups in enumerate([[history.group("a")], [], [], [history.group("a")]]):
        history.observe(60 * number, *groups)

    before, after = snapshots(history)
    assert (before["valid_to"], before["end_reason"]) == (history.at(60), "removed")
    assert (after["valid_from"], after["valid_to"]) == (history.at(180), None)


@pytest.mark.parametrize(
    ("settings", "removed"),
    [([3, 1], 2), ([3, 2], 2), ([2, 3, 3], 3), ([3, 3, 3], 3), ([5, 5, 2], 3)],
)
def test_the_setting_of_each_poll_decides_how_many_misses_it_needs(
    history: "History", settings: list[int], removed: int
) -> None:
    history.observe(0, history.group("a"))
    for number, history.confirm_removal in enumerate(settings, start=1):
        assert history.observe(60 * number).removed == (number == removed)
    snapshot(history, valid_to=history.at(60))


def test_a_removal_is_confirmed_across_a_gap(history: "History") -> None:
    history.observe(0, history.group("a"))
    history.observe(3600)
    history.observe(7200)
    snapshot(history, last_seen_at=history.at(0), valid_to=history.at(3600))


def _states(history: "History", limit: str) -> list["OrderGroup"]:
    return [history.group(group_id, limit) for group_id in HARD_IDS]


@pytest.mark.parametrize("remembering", [True, False])
def test_ids_may_be_whatever_json_can_say(history: "History", remembering: bool) -> None:
    def observe(seconds: float, *groups: "OrderGroup") -> dict[str, int | None]:
        if not remembering:
            history.store = Store(history.database, owner="first")
        written = history.observe(seconds, *groups)
        return {name: getattr(written, name) for name in ("added", "changed", "removed")}

    many = len(HARD_IDS)
    nothing = {"added": 0, "changed": 0, "removed": 0}
    assert observe(0, *_states(history, "1.00")) == nothing | {"added": many}
    assert observe(60, *_states(history, "1.00")) == nothing
    assert observe(120, *_states(history, "2.00")) == nothing | {"changed": many}
    assert observe(180) == nothing
    assert observe(240, *_states(history, "2.00")) == nothing
    assert len(history.rows("order_groups_current")) == many
    assert set(history.as_of(240)) == set(HARD_IDS)
    assert {row["last_seen_at"] for row in history.rows("order_groups_current")} == {
        history.at(240)
    }
    assert observe(300) == nothing
    assert observe(360) == nothing | {"removed": many}
    assert history.as_of(360) == {}


def test_a_group_whose_id_is_a_wildcard_changes_alone(history: "History") -> None:
    history.observe(0, history.group("a%"), history.group("a_"), history.group("ab"))
    history.observe(60, history.group("a%", "2.00"), history.group("a_"), history.group("ab"))
    assert len(history.rows("order_group_snapshots")) == 4


def test_accounts_with_the_same_group_ids_do_not_mix(history: "History") -> None:
    history.observe(0, history.group("a"))
    head = history.store.claim("other", now=history.at(1), lease=1)
    poll = history.poll(2, history.group("a", "2.00"))
    other = type(poll)(
        **{name: getattr(poll, name) for name in poll.__struct_fields__} | {"account": "other"}
    )
    history.write(other, head)
    history.observe(60)
    history.observe(120)

    assert [(row["account"], row["end_reason"]) for row in snapshots(history)] == [
        ("main", "removed"),
        ("other", None),
    ]
