"""The local exchange serves WebSocket clients that are not ours, and refuses invalid ones."""

import asyncio
import base64
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import KeyPair

PATH = "/trade-api/ws/v2"
SUBSCRIBE = {"id": 7, "cmd": "subscribe", "params": {"channels": ["order_group_updates"]}}


def sign(
    key_pair: "KeyPair", *, path: str = PATH, method: str = "GET", seconds: float = 0.0
) -> dict[str, str]:
    """Return the three headers, signed as the API's documentation says, without our own code."""
    timestamp = str(int((time.time() + seconds) * 1000))
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    message = f"{timestamp}{method}{path}".encode()
    signature = key_pair.private_key.sign(message, scheme, hashes.SHA256())
    return headers(key_pair.key_id, timestamp, signature)


def headers(key_id: str, timestamp: str, signature: bytes) -> dict[str, str]:
    return {
        "KALSHI-ACCESS-KEY": key_id,
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
    }


class Client:
    """A plain WebSocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, command: object) -> None:
        text = command if isinstance(command, str) else json.dumps(command)
        self.connection.send(text)

    def receive(self) -> Any:
        return json.loads(self.connection.recv(timeout=10))

    def subscribe(self) -> None:
        self.send(SUBSCRIBE)
        assert self.receive() == {
            "id": 7,
            "type": "subscribed",
            "msg": {"channel": "order_group_updates", "sid": 1},
        }


@pytest.fixture
def listen(exchange: Exchange, key_pair: "KeyPair") -> Callable[..., Any]:
    """Return a function that connects to the exchange, by default with valid headers."""

    @contextmanager
    def opened(
        path: str = PATH, sent: dict[str, str] | None = None, **more: Any
    ) -> Iterator[Client]:
        url = exchange.stream_url.removesuffix(PATH) + path
        signed = sign(key_pair, path=path) if sent is None else sent
        with connect(url, additional_headers=signed, proxy=None, **more) as connection:
            yield Client(connection)

    return opened


Listen = Callable[..., Any]


def refused(listen: Listen, *arguments: Any, **more: Any) -> Any:
    """Return the status and the body of a refused handshake."""
    with pytest.raises(InvalidStatus) as caught, listen(*arguments, **more):
        pytest.fail("it was accepted")
    response = caught.value.response
    return response.status_code, json.loads(bytes(response.body))


def test_a_handshake_is_checked_like_a_request(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    forged = {"error": {"code": "authentication_error", "message": "authentication error"}}
    forged["error"]["details"] = "INCORRECT_API_KEY_SIGNATURE"
    for sent in (sign(key_pair, path="/trade-api/v2"), sign(key_pair, method="POST")):
        assert refused(listen, sent=sent) == (401, forged)
    for seconds in (-30, 30):
        status, body = refused(listen, sent=sign(key_pair, seconds=seconds))
        assert (status, body["error"]["code"]) == (401, "header_timestamp_expired")
    assert refused(listen, sent={})[0] == 401
    assert refused(listen, path="/trade-api/ws/v3")[0] == 404
    sent = sign(key_pair)
    with listen(sent=sent):
        pass
    assert refused(listen, sent=sent)[1]["error"]["details"] == "SIGNATURE_SEEN_BEFORE"
    exchange.register(key_pair.key_id, key_pair.public_key, scopes=("write",))
    assert refused(listen)[0] == 403
    assert exchange.handshakes[-1].status == 403


def test_an_ed25519_key_is_served(exchange: Exchange, listen: Listen) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    exchange.register("edward", key.public_key())
    timestamp = str(int(time.time() * 1000))
    with listen(
        sent=headers("edward", timestamp, key.sign(f"{timestamp}GET{PATH}".encode()))
    ) as to:
        to.subscribe()


def test_changes_of_groups_are_sent_as_events(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    groups = exchange.groups(key_pair.key_id)
    with listen() as client:
        groups.create("early")  # events before the subscription are not replayed
        client.subscribe()
        before = int(time.time() * 1000)
        groups.create("a", contracts_limit="25.00")
        groups.change("a", contracts_limit_fp="2.50")
        groups.change("a", exchange_index=3)  # sends no event
        groups.trigger("a")
        groups.reset("a")
        groups.delete("a")
        events = [client.receive() for _ in range(5)]
    for number, event in enumerate(events, start=1):
        assert (event["type"], event["sid"], event["seq"]) == ("order_group_updates", 1, number)
        assert before <= event["msg"].pop("ts_ms") <= event["sending_ts_ms"]
        assert event["msg"].pop("order_group_id") == "a"
    assert [event["msg"] for event in events] == [
        {"event_type": "created", "contracts_limit_fp": "25.00"},
        {"event_type": "limit_updated", "contracts_limit_fp": "2.50"},
        {"event_type": "triggered"},
        {"event_type": "reset"},
        {"event_type": "deleted"},
    ]


def test_a_trigger_sets_the_flag_in_the_list(exchange: Exchange, key_pair: "KeyPair") -> None:
    groups = exchange.groups(key_pair.key_id)

    def flag() -> bool:
        return bool(groups.listing()[0]["is_auto_cancel_enabled"])

    groups.create("a")
    assert not flag()
    groups.trigger("a")
    assert flag()
    groups.reset("a")
    assert not flag()


def test_margin_has_its_own_groups_and_events(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    with listen(PATH + "/margin") as margin, listen() as predictions:
        margin.subscribe()
        predictions.subscribe()
        exchange.groups(key_pair.key_id, "margin").create("m")
        exchange.groups(key_pair.key_id).create("p")
        assert margin.receive()["msg"]["order_group_id"] == "m"
        assert predictions.receive()["msg"]["order_group_id"] == "p"
    path = "/trade-api/v2/margin/order_groups"
    answer = requests.get(
        exchange.base_url.removesuffix("/trade-api/v2") + path,
        headers=sign(key_pair, path=path),
        timeout=10,
    )
    assert [group["id"] for group in answer.json()["order_groups"]] == ["m"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("not JSON", 1),
        ([], 1),
        ({"cmd": "subscribe"}, 1),
        ({"id": 1, "cmd": "subscribe"}, 2),
        ({"id": 1, "cmd": "subscribe", "params": {"channels": ["ticker"]}}, 8),
        ({"id": 1, "cmd": "sing"}, 5),
        ({"id": 1, "cmd": "unsubscribe", "params": {"sids": [4]}}, 7),
    ],
)
def test_a_wrong_command_is_an_error(listen: Listen, command: object, code: int) -> None:
    with listen() as client:
        client.send(command)
        answer = client.receive()
        assert (answer["type"], answer["msg"]["code"]) == ("error", code)
        client.subscribe()


def test_unsubscribing_ends_the_events(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    with listen() as client:
        client.subscribe()
        client.send({"id": 8, "cmd": "unsubscribe", "params": {"sids": [1]}})
        assert client.receive() == {"id": 8, "type": "unsubscribed", "sid": 1, "seq": 1}
        assert exchange.channel(key_pair.key_id).subscribers == 0


def test_it_pings_with_a_heartbeat(exchange: Exchange, key_pair: "KeyPair", listen: Listen) -> None:
    pinged = threading.Event()

    class Watching(ClientConnection):
        def process_event(self, event: Any) -> None:
            if getattr(event, "opcode", None) == 9 and event.data == b"heartbeat":
                pinged.set()
            super().process_event(event)

    assert exchange.channel(key_pair.key_id).ping_interval == 10.0
    exchange.channel(key_pair.key_id).ping_interval = 0.05
    with listen(create_connection=Watching):
        assert pinged.wait(10)


def test_it_misbehaves_on_request(exchange: Exchange, key_pair: "KeyPair", listen: Listen) -> None:
    channel = exchange.channel(key_pair.key_id)
    exchange.script_handshakes(
        key_pair.key_id, Answer.error(418, "teapot", "no"), Answer.redirect("ws://127.0.0.1:1/")
    )
    assert refused(listen)[0] == 418
    # Later versions of the library follow the redirect, to a port where nothing listens.
    with pytest.raises((ConnectionRefusedError, InvalidStatus)), listen():
        pytest.fail("it was accepted")
    channel.acknowledge_after = 0.2
    with listen() as client:
        client.subscribe()
        channel.wait_for_subscribers(1)
        channel.skip(2)
        channel.tell("sung", "a", ts_ms=5, key="high")
        event = client.receive()
        assert event["seq"] == 3
        assert event["msg"] == {
            "event_type": "sung",
            "order_group_id": "a",
            "ts_ms": 5,
            "key": "high",
        }
        channel.say("not JSON")
        assert client.connection.recv(timeout=10) == "not JSON"
        channel.say(b"\x00")
        assert client.connection.recv(timeout=10) == b"\x00"
        channel.drop()
        with pytest.raises(ConnectionClosed):
            client.receive()
    channel.wait_for_subscribers(0)
    channel.acknowledge_after = None
    with listen() as client:
        client.send(SUBSCRIBE)
        with pytest.raises(TimeoutError):
            client.connection.recv(timeout=0.3)
        channel.close(1012, "restart")
        with pytest.raises(ConnectionClosed, match="1012"):
            client.receive()


def test_a_slow_reader_gets_a_buffer_overflow_error(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    channel = exchange.channel(key_pair.key_id)
    channel.buffer_size = 1_000
    with listen(max_queue=1) as client:
        client.subscribe()
        for _ in range(200_000):
            if not channel.subscribers:
                break
            channel.tell("triggered", "a")
        assert not channel.subscribers
        while (answer := client.receive())["type"] != "error":
            pass
        assert answer["msg"]["code"] == 25


def test_a_client_may_disconnect_while_events_are_sent(
    exchange: Exchange, key_pair: "KeyPair", listen: Listen
) -> None:
    channel = exchange.channel(key_pair.key_id)

    def tell() -> None:
        for _ in range(200):
            channel.tell("triggered", "a")

    for _ in range(10):
        # The client's queue is unbounded, so that it reads the closing handshake although it takes
        # no event from the queue.
        with listen(max_queue=None, close_timeout=1) as client:
            client.subscribe()
            telling = threading.Thread(target=tell)
            telling.start()
        telling.join()
    channel.wait_for_subscribers(0)


def test_closing_the_exchange_ends_its_connections(key_pair: "KeyPair") -> None:
    with Exchange() as exchange:
        exchange.register(key_pair.key_id, key_pair.public_key)
        connection = connect(exchange.stream_url, additional_headers=sign(key_pair), proxy=None)
    with connection, pytest.raises(ConnectionClosed):
        connection.recv(timeout=10)
    assert not any(each.name in {"listener", "connection"} for each in threading.enumerate())


@pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="kalshi-sdk, an independent client of the channel, needs Python 3.12",
)
@pytest.mark.skipif(
    sys.version_info >= (3, 12) and importlib.util.find_spec("kalshi") is None,
    reason="kalshi-sdk is not installed: pip install kalshi-sdk",
)
def test_an_independent_client_is_served(exchange: Exchange, key_pair: "KeyPair") -> None:
    from kalshi.auth import KalshiAuth
    from kalshi.config import KalshiConfig
    from kalshi.ws.client import KalshiWebSocket

    auth = KalshiAuth.from_key_path(key_pair.key_id, key_pair.private_key_file)
    config = KalshiConfig(base_url=exchange.base_url, ws_base_url=exchange.stream_url)
    groups = exchange.groups(key_pair.key_id)

    async def main() -> list[Any]:
        async with KalshiWebSocket(auth, config).connect() as session:
            updates = await session.subscribe_order_group()
            groups.create("a", contracts_limit="25.00")
            groups.trigger("a")
            groups.reset("a")
            heard: list[Any] = []
            async for update in updates:
                heard.append(update)
                if len(heard) == 3:
                    return heard
        pytest.fail("the stream ended")

    heard = asyncio.run(asyncio.wait_for(main(), 20))
    assert [(each.sid, each.seq, each.msg.event_type) for each in heard] == [
        (1, 1, "created"),
        (1, 2, "triggered"),
        (1, 3, "reset"),
    ]
    assert all(each.msg.order_group_id == "a" and each.msg.ts_ms for each in heard)
