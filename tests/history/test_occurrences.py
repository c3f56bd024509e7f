"""Equal events without a time are numbered; all others are left as they are."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from exporter.history import occurrences as module
from exporter.history.occurrences import UNDATED_WINDOW, Occurrences
from exporter.model import OrderGroupEvent

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def event(seconds: float = 0.0, **fields: object) -> OrderGroupEvent:
    return OrderGroupEvent(
        **{  # type: ignore[arg-type]  # as the tests name them
            "order_group_id": "a",
            "event_type": "triggered",
            "event_at": None,
            "contracts_limit": None,
            "received_at": NOON + timedelta(seconds=seconds),
            "extra": None,
        }
        | fields
    )


def numbers(*events: OrderGroupEvent) -> list[int]:
    occurrences = Occurrences()
    return [occurrences.number(each).occurrence for each in events]


def test_equal_events_are_told_apart() -> None:
    assert numbers(event(0), event(1), event(2)) == [1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        {"order_group_id": "b"},
        {"event_type": "reset"},
        {"contracts_limit": "7.00"},
        {"extra": '{"x":1}'},
    ],
)
def test_other_events_are_counted_apart(other: dict[str, object]) -> None:
    assert numbers(event(0), event(1, **other), event(2)) == [1, 1, 2]


def test_an_event_with_a_time_stays_as_it_is() -> None:
    dated = event(event_at=NOON)
    assert Occurrences().number(dated) is dated
    assert numbers(dated, dated, dated) == [1, 1, 1]


def test_the_count_begins_again_after_the_window() -> None:
    window = UNDATED_WINDOW.total_seconds()
    assert numbers(event(0), event(window - 1), event(window), event(2 * window)) == [1, 2, 2, 1]


def test_two_connections_that_hear_the_same_number_alike() -> None:
    heard = [event(0), event(0.5, event_type="reset"), event(1), event(1.5, event_type="reset")]
    later = [replace(each, received_at=each.received_at + timedelta(seconds=2)) for each in heard]
    assert numbers(*heard) == numbers(*later) == [1, 1, 2, 2]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 10)
    occurrences = Occurrences()
    for number in range(1_000):
        occurrences.number(event(order_group_id=f"group-{number}"))
    assert len(occurrences._heard) == 10
    assert occurrences.number(event(order_group_id="group-999")).occurrence == 2
