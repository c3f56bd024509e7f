"""Test the queue between connections and the writer: order, bounds, and changes of accounts."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from exporter.causes import StreamGapCause
from exporter.model import OrderGroupEvent
from exporter.recording.stream_queue import Heard, Item, NotListening, StreamQueue
from exporter.recording.stream_source import StreamAccount

START = datetime(2026, 11, 26, tzinfo=UTC)
MAIN, OTHER = StreamAccount("main", False), StreamAccount("other", True)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def event(name: str) -> OrderGroupEvent:
    return OrderGroupEvent(order_group_id=name, event_type="created", received_at=at(0))


def taken(queue: StreamQueue) -> list[Heard]:
    items: list[Item] | None = queue.take(0)
    assert items is not None
    return [item for item in items if isinstance(item, Heard)]


def names(heard: Heard) -> list[str]:
    return [each.order_group_id for each in heard.events]


def test_queued_events_are_taken_together_in_order() -> None:
    queue = StreamQueue()
    first = queue.open([MAIN], at(0))
    second = queue.open([OTHER], at(1))
    queue.add(first, event("a"), at(2))
    queue.add(second, event("b"), at(3))
    queue.add(first, event("c"), at(4))
    one, other = taken(queue)
    assert (names(one), one.until, one.cause) == (["a", "c"], at(4), None)
    assert (names(other), other.until) == (["b"], at(3))
    assert taken(queue) == []


def test_the_certain_instant_never_moves_back() -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(5))
    queue.extend(subscription, at(2))
    queue.add(subscription, event("a"), at(3))
    (heard,) = taken(queue)
    assert heard.until == at(5)
    queue.end(subscription, at(4), "disconnected")
    (ended,) = taken(queue)
    assert (ended.until, ended.cause, names(ended)) == (at(5), "disconnected", [])


@pytest.mark.parametrize("cause", ["lost_messages", "overflow"])
def test_a_loss_that_is_noticed_late_revokes_what_was_claimed(cause: StreamGapCause) -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(0))
    queue.extend(subscription, at(9))
    queue.end(subscription, at(4), cause)
    *_, ended = taken(queue)
    assert (ended.until, ended.claimed_until) == (at(4), at(9))


def test_the_end_of_a_stretch_follows_its_events() -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(0))
    queue.add(subscription, event("a"), at(1))
    queue.end(subscription, at(2), "lost_messages")
    before, end = taken(queue)
    assert (names(before), before.cause) == (["a"], None)
    assert (end.until, end.cause) == (at(2), "lost_messages")


def test_an_account_gets_the_events_between_joining_and_leaving() -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(0))
    queue.add(subscription, event("a"), at(1))
    queue.replace(subscription, [OTHER], at(2))
    queue.add(subscription, event("b"), at(3))
    before, left, after = taken(queue)
    assert (names(before), [each.account for each in before.members]) == (["a"], [MAIN])
    assert (left.cause, left.until, left.members) == ("not_listening", at(1), before.members)
    assert (names(after), [each.account for each in after.members]) == (["b"], [OTHER])
    assert after.members[0].joined_at == at(2)


def test_an_account_that_stays_keeps_its_membership() -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(0))
    (opened,) = taken(queue)
    queue.replace(subscription, [MAIN, OTHER], at(2))
    (after,) = taken(queue)
    assert after.members[0] is opened.members[0]
    assert after.cause is None


def test_the_queue_is_full_until_it_is_emptied() -> None:
    queue = StreamQueue(max_events=2)
    subscription = queue.open([MAIN], at(0))
    queue.add(subscription, event("a"), at(1))
    assert not queue.is_full
    queue.add(subscription, event("b"), at(1))
    assert queue.is_full
    taken(queue)
    assert not queue.is_full


def test_a_closed_queue_yields_its_items_and_then_none() -> None:
    queue = StreamQueue()
    failed = NotListening(accounts=(MAIN,), at=at(0), cause="unreachable")
    queue.report(failed)
    queue.close()
    assert queue.take(0) == [failed]
    assert queue.take(0) is None


def test_a_new_item_ends_the_wait() -> None:
    queue = StreamQueue()
    subscription = queue.open([MAIN], at(0))
    taken(queue)
    timer = threading.Timer(0.05, queue.add, (subscription, event("a"), at(1)))
    timer.start()
    items = queue.take(30)
    timer.join()
    assert items
