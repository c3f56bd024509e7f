"""Test one listener against the local exchange: bounds, cooldowns, and failures."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from exporter.clock import Clock, SteadyClock
from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange
from exporter.hooks import Hooks
from exporter.http.tls import ssl_context
from exporter.kalshi.exchanges import stream_url
from exporter.kalshi.keys import load_private_key
from exporter.recording import stream_listener
from exporter.recording.stream_listener import Listener, Shared
from exporter.recording.stream_queue import Heard, NotListening, StreamQueue
from exporter.recording.stream_source import StreamAccount, StreamSource

if TYPE_CHECKING:
    from tests.conftest import KeyPair


@pytest.fixture
def source(exchange: Exchange, key_pair: "KeyPair") -> StreamSource:
    return StreamSource(
        url=stream_url("predictions", environment=None, base_url=exchange.base_url),
        key_id=key_pair.key_id,
        key=load_private_key(key_pair.private_key_file),
        proxy=None,
        accounts=(StreamAccount("main", False), StreamAccount("other", False)),
    )


def shared(
    queue: StreamQueue,
    *,
    cooldown: Callable[[str], float] = lambda _: 0.0,
    clocks: list[SteadyClock] | None = None,
) -> Shared:
    steady = [SteadyClock()] if clocks is None else clocks
    return Shared(
        queue=queue,
        clock=Clock(),
        steady=lambda: steady[-1],
        hooks=Hooks(),
        tls=ssl_context(),
        handshakes=asyncio.Semaphore(8),
        cooldown=cooldown,
        extend_seconds=lambda: 0.2,
    )


def listen(source: StreamSource, with_: Shared, act: Callable[[], None]) -> None:
    """Listen while `act` runs in another thread."""

    async def run() -> None:
        listener = Listener(source, with_)
        listener.start(delay=0.0)
        await asyncio.to_thread(act)
        await listener.stop()

    asyncio.run(run())


def test_a_full_queue_ends_the_stretch(
    exchange: Exchange, key_id: str, source: StreamSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_listener, "_OVERFLOW_SECONDS", 0.3)
    queue = StreamQueue(max_events=5)
    channel = exchange.channel(key_id)

    def act() -> None:
        channel.wait_for_subscribers(1)
        for number in range(20):
            channel.tell("triggered", f"group-{number}")
        channel.wait_for_subscribers(0)

    listen(source, shared(queue), act)
    items = [item for item in queue.take(0) or [] if isinstance(item, Heard)]
    # The events received before the overflow are still written.
    assert sum(len(item.events) for item in items) == 5
    assert "overflow" in [item.cause for item in items]


def test_no_connection_while_all_accounts_cool_down(
    exchange: Exchange, source: StreamSource
) -> None:
    seconds = {"main": 60.0, "other": 60.0}

    def act() -> None:
        time.sleep(0.5)

    listen(source, shared(StreamQueue(), cooldown=seconds.__getitem__), act)
    assert exchange.handshakes == []
    # One account without a cooldown is enough, because they share the key.
    seconds["other"] = 0.0
    listen(source, shared(StreamQueue(), cooldown=seconds.__getitem__), act)
    assert len(exchange.handshakes) == 1


def test_a_refused_handshake_is_reported_once_and_tried_again(
    exchange: Exchange, key_id: str, source: StreamSource
) -> None:
    exchange.script_handshakes(key_id, *[Answer.server_error(503)] * 2)
    queue = StreamQueue()
    channel = exchange.channel(key_id)

    def act() -> None:
        channel.wait_for_subscribers(1, seconds=30)
        time.sleep(0.5)  # the acknowledgement may still be under way

    listen(source, shared(queue), act)
    items = queue.take(0) or []
    reported = [item for item in items if isinstance(item, NotListening)]
    assert [(each.cause, [account.name for account in each.accounts]) for each in reported] == [
        ("unreachable", ["main", "other"])
    ]
    assert [item.cause for item in items if isinstance(item, Heard)][-1] == "not_listening"


def test_a_defect_costs_one_connection(
    exchange: Exchange,
    key_id: str,
    source: StreamSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = StreamQueue()
    channel = exchange.channel(key_id)
    add = queue.add

    def fail_once(*_: Any) -> None:
        monkeypatch.setattr(queue, "add", add)
        raise ZeroDivisionError

    monkeypatch.setattr(queue, "add", fail_once)

    def act() -> None:
        channel.wait_for_subscribers(1)
        channel.tell("triggered", "lost")
        channel.wait_for_subscribers(0)
        channel.wait_for_subscribers(1)
        channel.tell("triggered", "heard")
        time.sleep(0.5)

    listen(source, shared(queue), act)
    items = [item for item in queue.take(0) or [] if isinstance(item, Heard)]
    assert [event.order_group_id for item in items for event in item.events] == ["heard"]
    assert [item.cause for item in items if item.cause] == ["not_listening"] * 2
    assert "unexpected" in [vars(record).get("event") for record in caplog.records]


def test_a_stretch_ends_before_what_the_exchange_may_not_have_sent_yet(
    exchange: Exchange, key_id: str, source: StreamSource
) -> None:
    queue = StreamQueue()
    channel = exchange.channel(key_id)
    channel.ping_interval = 0.1
    closed: list[datetime] = []

    def act() -> None:
        channel.wait_for_subscribers(1)
        time.sleep(1.8)
        closed.append(datetime.now(UTC))
        channel.drop()
        channel.wait_for_subscribers(0)

    listen(source, shared(queue), act)
    items = [item for item in queue.take(0) or [] if isinstance(item, Heard)]
    lost = next(item for item in items if item.cause is not None)
    for item in items[: items.index(lost) + 1]:
        assert item.members[0].joined_at < item.until < closed[0] - timedelta(seconds=0.8)


def test_a_connection_whose_clock_was_set_is_made_again(
    exchange: Exchange, key_id: str, source: StreamSource
) -> None:
    queue = StreamQueue()
    channel = exchange.channel(key_id)
    clocks = [SteadyClock()]
    with_ = shared(queue, clocks=clocks)

    async def run() -> None:
        listener = Listener(source, with_)
        listener.start(delay=0.0)
        await asyncio.to_thread(channel.wait_for_subscribers, 1)
        await asyncio.sleep(0.2)  # the acknowledgement may still be under way
        clocks.append(SteadyClock())
        listener.clock_was_set(-3600.0)
        await asyncio.to_thread(channel.wait_for_subscribers, 0)
        await asyncio.to_thread(channel.wait_for_subscribers, 1)
        await asyncio.sleep(0.2)
        await listener.stop()

    asyncio.run(run())
    items = [item for item in queue.take(0) or [] if isinstance(item, Heard)]
    assert [item.cause for item in items if item.cause] == ["not_listening"] * 2
    assert len(exchange.handshakes) == 2


def test_a_clock_that_was_set_during_the_handshake_dates_nothing(
    exchange: Exchange, key_id: str, source: StreamSource
) -> None:
    queue = StreamQueue()
    clocks = [SteadyClock()]
    channel = exchange.channel(key_id)
    channel.acknowledge_after = 0.3

    def act() -> None:
        until = time.monotonic() + 10
        while not exchange.handshakes and time.monotonic() < until:
            time.sleep(0.01)
        clocks.append(SteadyClock())
        until = time.monotonic() + 10
        while len(exchange.handshakes) < 2 and time.monotonic() < until:
            time.sleep(0.01)

    listen(source, shared(queue, clocks=clocks), act)
    items = queue.take(0) or []
    assert isinstance(items[0], NotListening)
    assert items[0].cause == "not_listening"
