"""Each column of each view has its documented meaning."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, update

from exporter.history.schema import order_group_snapshots, polls

if TYPE_CHECKING:
    from tests.history.conftest import History

VIEWS = ("order_groups_current", "order_group_history", "order_group_changes", "coverage_gaps")


def life(history: "History") -> None:
    """Write polls in which a group appears, changes after a gap, disappears, and returns."""
    history.observe(0)
    history.observe(60, history.group("a", "1.00", extra='{"x":1}'))
    history.fail(120, "server_error")
    history.observe(600.25, history.group("a", "2.00", is_auto_cancel_enabled=False))
    history.observe(660)
    history.observe(720)
    history.observe(780, history.group("a", None, exchange_index=3))
    history.observe(840, history.group("a", None, exchange_index=3))


def test_current_shows_when_a_group_was_first_and_last_seen(history: "History") -> None:
    life(history)
    assert history.rows("order_groups_current") == [
        {
            "account": "main",
            "order_group_id": "a",
            "is_auto_cancel_enabled": True,
            "contracts_limit": None,
            "exchange_index": 3,
            "extra": None,
            "first_seen_at": history.at(60),
            "last_seen_at": history.at(840),
            "last_changed_at": history.at(780),
            "missing_since": None,
        }
    ]


def test_current_shows_a_group_whose_removal_is_unconfirmed(history: "History") -> None:
    life(history)
    history.observe(900)
    row = history.row("order_groups_current")
    assert (row["last_seen_at"], row["missing_since"]) == (history.at(840), history.at(900))


def test_history_fills_in_the_columns_that_open_snapshots_leave_empty(history: "History") -> None:
    life(history)
    ids = [row["id"] for row in history.rows("polls") if row["outcome"] == "ok"]
    columns = ("valid_from", "valid_to", "last_seen_at", "duration_seconds", "last_poll_id")
    assert [[row[name] for name in columns] for row in history.rows("order_group_history")] == [
        [history.at(60), history.at(600.25), history.at(60), 540.25, ids[1]],
        [history.at(600.25), history.at(660), history.at(600.25), 59.75, ids[2]],
        [history.at(780), None, history.at(840), 60.0, ids[6]],
    ]


def test_changes_show_old_and_new_values_and_the_earliest_possible_time(
    history: "History",
) -> None:
    life(history)
    columns = (
        "changed_at",
        "not_before",
        "change",
        "old_is_auto_cancel_enabled",
        "new_is_auto_cancel_enabled",
        "old_contracts_limit",
        "new_contracts_limit",
        "old_exchange_index",
        "new_exchange_index",
        "old_extra",
        "new_extra",
    )
    one, two, extra = Decimal("1.00"), Decimal("2.00"), '{"x":1}'
    at = history.at
    assert [
        tuple(row[name] for name in columns) for row in history.rows("order_group_changes")
    ] == [
        (at(60), at(0), "appeared", None, True, None, one, None, None, None, extra),
        (at(600.25), at(60), "changed", True, False, one, two, None, None, extra, None),
        (at(660), at(600.25), "disappeared", False, None, two, None, None, None, None, None),
        (at(780), at(720), "appeared", None, True, None, None, None, 3, None, None),
    ]


def test_changes_are_the_same_for_states_without_a_begin_reason(history: "History") -> None:
    # Older exporters, and people by hand, wrote such states.
    history.observe(0, history.group("a"), history.group("b"))
    history.observe(60, history.group("a", "2.00"), history.group("c"))
    history.observe(120, history.group("a", "2.00"), history.group("c"))
    before = history.rows("order_group_changes")
    assert sorted(row["change"] for row in before) == [
        *["appeared"] * 3,
        "changed",
        "disappeared",
    ]

    with history.database.transaction() as connection:
        connection.execute(update(order_group_snapshots).values(begin_reason=None))

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["changed_at"], row["order_group_id"]

    assert sorted(history.rows("order_group_changes"), key=key) == sorted(before, key=key)


def test_gaps_show_their_length_and_cause(history: "History") -> None:
    life(history)
    assert history.rows("coverage_gaps") == [
        {
            "account": "main",
            "gap_start": history.at(60),
            "gap_end": history.at(600.25),
            "seconds": 540.25,
            "cause": "server_error",
        }
    ]


def test_seconds_are_exact_to_the_microsecond_over_years(history: "History") -> None:
    history.interval = 1e9
    history.observe(0, history.group("a", "1.00"))
    history.observe(86_400 * 3650 + 0.000001, history.group("a", "2.00"))
    [first, _] = history.rows("order_group_history")
    assert first["duration_seconds"] == 86_400 * 3650 + 0.000001


def test_the_views_do_not_depend_on_polls(history: "History") -> None:
    life(history)
    before = history.rows_of(*VIEWS, "coverage")
    with history.database.transaction() as connection:
        connection.execute(delete(polls))
    assert history.rows_of(*VIEWS, "coverage") == before
