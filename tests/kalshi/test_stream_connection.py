"""One WebSocket over real sockets delivers the events, and survives every kind of bad peer."""

import asyncio
import itertools
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from websockets.frames import Close, Opcode

from exporter.clock import Clock
from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange as LocalExchange
from exporter.errors import StreamError
from exporter.http.tls import ssl_context
from exporter.kalshi.exchanges import STREAM_URLS, stream_url
from exporter.kalshi.keys import load_private_key
from exporter.kalshi.stream_connection import MAX_MESSAGE_SIZE, StreamConnection
from exporter.model import OrderGroupEvent
from tests.support.proxy import Proxy
from tests.support.websocket import event, frame, subscribed, text, wait_for_end, websocket

if TYPE_CHECKING:
    from tests.support.servers import Answering, Dripping, Exchange, Keys

KEY_ID = "0d1e2f3a-1111-2222-3333-44445555abcd"
LONG = 20.0  # seconds; no test takes this long unless it hangs

now = Clock().now


@pytest.fixture
def local(keys: "Keys") -> Iterator[LocalExchange]:
    """Yield the local exchange, with an RSA and an Ed25519 key registered."""
    with LocalExchange() as running:
        running.register(KEY_ID, keys.rsa_private.public_key())
        running.register("ed25519", keys.ed25519_private.public_key())
        yield running


@pytest.fixture
def listen(keys: "Keys") -> Callable[..., StreamConnection]:
    """Return a function that makes connections with short timeouts."""

    def make(url: str, **changes: Any) -> StreamConnection:
        settings: dict[str, Any] = {
            "key_id": KEY_ID,
            "key": load_private_key(keys.rsa),
            "now": now,
            "open_timeout": 2.0,
            "subscribe_timeout": 2.0,
            "silence_timeout": 2.0,
            "close_timeout": 0.2,
        }
        return StreamConnection(url, **(settings | changes))

    return make


Listen = Callable[..., StreamConnection]


def run(coroutine: Awaitable[Any]) -> Any:
    """Run a coroutine on a new event loop, with a time limit."""

    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, LONG)

    return asyncio.run(bounded())


def raw_url(exchange: "Exchange") -> str:
    return stream_url("predictions", environment=None, base_url=exchange.base_url)


async def hear(
    connection: StreamConnection, then: Callable[[], object] = lambda: None
) -> tuple[list[OrderGroupEvent], StreamError]:
    """Subscribe, call `then`, and return the events and the error that ends the stream."""
    events: list[OrderGroupEvent] = []
    try:
        async with connection as stream:
            then()
            async for each in stream:
                events.append(each)  # noqa: PERF401  # the events are needed although an error ends the loop
    except StreamError as error:
        return events, error
    pytest.fail("the stream ended without an error")


async def fail_to_open(connection: StreamConnection) -> StreamError:
    """Return the error of a connection that does not open."""
    with pytest.raises(StreamError) as caught:
        async with connection:
            pytest.fail("it opened")
    assert caught.value.certain_until is None
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.parametrize("name", ["predictions", "margin"])
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_events_arrive_in_order(
    local: LocalExchange, listen: Listen, keys: "Keys", kind: str, name: Any
) -> None:
    key_id = KEY_ID if kind == "rsa" else "ed25519"
    url = stream_url(name, environment=None, base_url=local.base_url)
    connection = listen(url, key_id=key_id, key=load_private_key(keys.directory / f"{kind}.pem"))
    other: Any = "margin" if name == "predictions" else "predictions"

    async def main() -> list[OrderGroupEvent]:
        async with connection as stream:
            local.groups(key_id, other).create("elsewhere")
            groups = local.groups(key_id, name)
            groups.create("a", contracts_limit="25.00")
            groups.change("a", contracts_limit_fp="5.00")
            groups.trigger("a")
            groups.reset("a")
            groups.delete("a")
            return [each async for each, _ in _zip(stream, range(5))]

    events = run(main())
    assert [(each.order_group_id, each.event_type, each.contracts_limit) for each in events] == [
        ("a", "created", "25.00"),
        ("a", "limit_updated", "5.00"),
        ("a", "triggered", None),
        ("a", "reset", None),
        ("a", "deleted", None),
    ]
    for each in events:
        assert each.event_at is not None
        assert abs(each.received_at - each.event_at) < timedelta(seconds=LONG)
        assert each.extra is None


async def _zip(stream: StreamConnection, numbers: range) -> Any:
    """Yield the stream's first events, each with its number, and then end."""
    left = iter(numbers)
    last = numbers[-1]
    async for each in stream:
        number = next(left)
        yield each, number
        if number == last:
            return


def test_each_handshake_is_signed_afresh(local: LocalExchange, listen: Listen) -> None:
    async def main() -> None:
        for _ in range(2):
            async with listen(local.stream_url):
                pass

    run(main())
    first, second = local.handshakes
    assert first.status == second.status == 101
    assert first.headers["kalshi-access-signature"] != second.headers["kalshi-access-signature"]
    assert first.headers["user-agent"].startswith("kalshi-exporter/")
    assert "sec-websocket-extensions" not in first.headers


def test_an_unknown_key_is_unauthorized(local: LocalExchange, listen: Listen) -> None:
    error = run(fail_to_open(listen(local.stream_url, key_id="unknown-key-id-wxyz")))
    assert error.cause == "unauthorized"
    assert "no such key in this environment" in error.reason
    assert "…wxyz" in error.reason
    assert "unknown-key" not in error.reason


def test_a_wrong_clock_is_named(local: LocalExchange, listen: Listen) -> None:
    local.clock_offset = 3600.0
    error = run(fail_to_open(listen(local.stream_url)))
    assert error.cause == "unauthorized"
    assert "this machine's clock is 3600 s behind" in error.reason


@pytest.mark.parametrize(
    ("refusal", "cause", "words"),
    [
        (Answer(status=200, body=b"<html>hello</html>"), "rejected", "check stream_url"),
        (Answer.json({"a": 1}), "rejected", "check stream_url"),
        (Answer.redirect("http://127.0.0.1:1/", 301), "rejected", "redirects are not followed"),
        (Answer.redirect("ws://127.0.0.1:1/", 307), "rejected", "redirects are not followed"),
        (Answer(status=304), "rejected", "304"),
        (Answer.unauthorized(), "unauthorized", "private_key_file is not the key"),
        (Answer.error(403, "no_scope", "\x1b[31mno"), "unauthorized", "scope"),
        (Answer.proxy_error(401), "unreachable", "in front of the exchange"),
        (Answer.proxy_error(403), "unreachable", "in front of the exchange"),
        (Answer.error(400, "bad", "bad"), "rejected", "bad"),
        (Answer.error(404, "not_found", "x"), "rejected", "check stream_url"),
        (Answer.rate_limited("7"), "rejected", "429"),
        (Answer.server_error(), "unreachable", "500"),
        (Answer.proxy_error(502), "unreachable", "502"),
        (Answer.proxy_error(503), "unreachable", "503"),
        (Answer(status=503, body=b"x" * 2_000_000), "unreachable", ""),
        (Answer(ending="closed"), "unreachable", ""),
        (Answer(ending="reset"), "unreachable", ""),
        (Answer(status=500, body=b"x" * 500, ending="truncated"), "unreachable", ""),
    ],
)
def test_a_refused_handshake_has_a_cause(
    local: LocalExchange, listen: Listen, refusal: Answer, cause: str, words: str
) -> None:
    local.script_handshakes(KEY_ID, refusal)
    error = run(fail_to_open(listen(local.stream_url)))
    assert error.cause == cause
    assert words in error.reason
    assert error.retry_after == (7.0 if refusal.status == 429 else None)
    assert len(local.handshakes) == 1


def test_redirects_of_the_handshake_are_not_followed(
    local: LocalExchange, exchange: "Exchange", answering: "Answering", listen: Listen
) -> None:
    exchange.answers = [answering()]
    for status in (301, 302, 303, 307, 308):
        local.script_handshakes(KEY_ID, Answer.redirect(raw_url(exchange), status))
        assert run(fail_to_open(listen(local.stream_url))).http_status == status
    assert exchange.connections == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x00" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: bm90IG91ciBrZXk=\r\n\r\n",
        b"HTTP/1.1 999 No\r\n\r\n",
        b"HTTP/1.1 401 No\r\nDate: x\r\nDate: y\r\nRetry-After: \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    ],
)
def test_an_invalid_response_to_a_handshake_has_a_cause(
    exchange: "Exchange", listen: Listen, sent: bytes
) -> None:
    exchange.answers = [lambda connection: connection.sendall(sent)]
    error = run(fail_to_open(listen(raw_url(exchange))))
    assert error.cause in {"unreachable", "rejected"}


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 401 No\r\n\r\n"])
@pytest.mark.parametrize("pause", [0.01, 1.0])
def test_a_handshake_has_a_deadline(
    exchange: "Exchange", listen: Listen, dripping: "Dripping", beginning: bytes, pause: float
) -> None:
    exchange.answers = [dripping(beginning, b"x", pause)]
    began = time.monotonic()
    error = run(fail_to_open(listen(raw_url(exchange), open_timeout=0.3)))
    assert error.cause == "unreachable"
    assert "within 0.3 s" in error.reason
    assert time.monotonic() - began < LONG / 2


def test_a_port_without_a_listener_is_unreachable(listen: Listen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = run(fail_to_open(listen(f"ws://127.0.0.1:{port}/trade-api/ws/v2")))
    assert error.cause == "unreachable"
    assert f"127.0.0.1:{port}" in error.reason


def test_an_extension_that_was_not_offered_is_refused(exchange: "Exchange", listen: Listen) -> None:
    extension = "Sec-WebSocket-Extensions: permessage-deflate"
    exchange.answers = [websocket(exchange, wait_for_end, extension)]
    error = run(fail_to_open(listen(raw_url(exchange))))
    assert error.cause == "rejected"


def test_secrets_that_a_peer_echoes_are_redacted(
    exchange: "Exchange", listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    def repeat(connection: socket.socket) -> None:
        headers = exchange.requests[-1].headers
        body = " ".join(headers.values()).encode()
        head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    exchange.answers = [repeat]
    with caplog.at_level(logging.DEBUG):
        error = run(fail_to_open(listen(raw_url(exchange))))
    sent = {name.upper(): value for name, value in exchange.requests[-1].headers.items()}
    for secret in (KEY_ID, sent["KALSHI-ACCESS-SIGNATURE"]):
        assert secret not in f"{error.reason} {error.message} {caplog.text}"


def test_the_log_contains_no_frame_and_no_signature(
    local: LocalExchange, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        run(hear(listen(local.stream_url), lambda: local.channel(KEY_ID).say("\x1b[31mnot JSON")))
    assert local.handshakes[0].headers["kalshi-access-signature"] not in caplog.text
    assert KEY_ID not in caplog.text
    assert "\x1b" not in caplog.text


def test_a_late_acknowledgement_is_awaited(local: LocalExchange, listen: Listen) -> None:
    local.channel(KEY_ID).acknowledge_after = 0.3

    async def main() -> tuple[datetime, datetime]:
        began = now()
        async with listen(local.stream_url) as stream:
            return began, stream.subscribed_at

    began, subscribed_at = run(main())
    assert subscribed_at - began >= timedelta(seconds=0.3)


@pytest.mark.parametrize("pings", [None, 0.05])
def test_a_missing_acknowledgement_times_out(
    local: LocalExchange, listen: Listen, pings: float | None
) -> None:
    local.channel(KEY_ID).acknowledge_after = None
    local.channel(KEY_ID).ping_interval = pings
    error = run(fail_to_open(listen(local.stream_url, subscribe_timeout=0.3)))
    assert error.cause == "unreachable"
    assert "did not acknowledge the subscription within 0.3 s" in error.reason


@pytest.mark.parametrize("code", [1, 2, 5, 8, 9, 10, 11, 18, 25, 27, 99])
def test_an_error_in_response_to_the_subscription_has_a_cause(
    exchange: "Exchange", listen: Listen, code: int
) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        fields = {"code": code, "msg": "no"}
        connection.sendall(text({"type": "error", "id": 1, "msg": fields}))
        wait_for_end(connection)

    exchange.answers = [websocket(exchange, refuse)]
    error = run(fail_to_open(listen(raw_url(exchange))))
    assert error.cause == ("unauthorized" if code == 9 else "rejected")
    assert (error.code, error.message) == (str(code), "no")


def test_a_silent_connection_times_out(local: LocalExchange, listen: Listen) -> None:
    local.channel(KEY_ID).ping_interval = None  # it still answers our pings
    began = time.monotonic()
    events, error = run(hear(listen(local.stream_url, silence_timeout=0.3)))
    assert (events, error.cause) == ([], "disconnected")
    assert error.reason == "no message and no ping for 0.3 s"
    assert 0.3 <= time.monotonic() - began < LONG / 2


def test_pings_alone_keep_a_connection_alive(local: LocalExchange, listen: Listen) -> None:
    local.channel(KEY_ID).ping_interval = 0.1
    groups = local.groups(KEY_ID)

    async def main() -> datetime:
        async with listen(local.stream_url, silence_timeout=0.4) as stream:
            asyncio.get_running_loop().call_later(1.5, groups.create, "a")
            async for _ in stream:
                return stream.certain_until
        raise AssertionError

    before = now()
    assert run(main()) - before > timedelta(seconds=1)


def test_a_slow_reader_does_not_time_out_the_exchange(local: LocalExchange, listen: Listen) -> None:
    channel = local.channel(KEY_ID)
    channel.ping_interval = None

    async def main() -> int:
        heard = 0
        async with listen(local.stream_url, silence_timeout=0.3) as stream:
            for number in range(10_000):
                channel.tell("triggered", f"{number:036}")
            async for _ in stream:
                heard += 1
                if heard == 1:
                    await asyncio.sleep(1.0)
                if heard == 10_000:
                    break
        return heard

    assert run(main()) == 10_000


def test_pongs_extend_what_is_certain(local: LocalExchange, listen: Listen) -> None:
    groups = local.groups(KEY_ID)

    async def main() -> tuple[OrderGroupEvent, StreamError]:
        heard = []
        try:
            async with listen(local.stream_url) as stream:
                groups.create("a")
                async for each in stream:
                    heard.append(each)
                    # The next pong comes after the pause between two pings.
                    while stream.certain_until <= each.received_at:
                        await asyncio.sleep(0.01)
                    local.channel(KEY_ID).drop()
        except StreamError as error:
            return heard[0], error
        pytest.fail("the stream ended without an error")

    created, error = run(main())
    assert error.cause == "disconnected"
    assert error.certain_until is not None
    assert created.received_at < error.certain_until < now()


def test_without_any_pong_events_extend_what_is_certain(
    exchange: "Exchange", listen: Listen
) -> None:
    exchange.answers = [subscribed(exchange, lambda connection: connection.sendall(text(event(1))))]
    events, error = run(hear(listen(raw_url(exchange))))
    assert error.cause == "disconnected"
    assert error.certain_until is not None
    # `certain_until` is the instant at which the bytes were read; the event is dated just after.
    assert timedelta(0) <= events[0].received_at - error.certain_until < timedelta(seconds=1)


def test_after_an_unanswered_ping_nothing_more_is_certain(
    exchange: "Exchange", listen: Listen
) -> None:
    """An exchange that has answered pings must answer every ping to extend what is certain."""

    def answer_once(connection: socket.socket) -> None:
        ping = connection.recv(65536)
        mask, masked = ping[2:6], ping[6:]
        payload = bytes(each ^ key for each, key in zip(masked, itertools.cycle(mask)))
        connection.sendall(frame(Opcode.PONG, payload))
        time.sleep(0.5)
        connection.sendall(text(event(1)))

    exchange.answers = [subscribed(exchange, answer_once)]
    events, error = run(hear(listen(raw_url(exchange))))
    assert error.certain_until is not None
    assert events[0].received_at - error.certain_until > timedelta(seconds=0.4)


def test_lost_messages_end_the_stretch(local: LocalExchange, listen: Listen) -> None:
    groups = local.groups(KEY_ID)

    def lose() -> None:
        groups.create("a")
        local.channel(KEY_ID).skip()
        groups.create("b")
        groups.create("c")

    events, error = run(hear(listen(local.stream_url), lose))
    assert [each.order_group_id for each in events] == ["a", "b"]
    assert error.cause == "lost_messages"
    assert error.certain_until is not None
    assert error.certain_until <= events[0].received_at


def test_numbers_that_go_backwards_end_the_stretch(local: LocalExchange, listen: Listen) -> None:
    groups = local.groups(KEY_ID)

    def repeat() -> None:
        groups.create("a")
        local.channel(KEY_ID).skip(-1)
        groups.create("b")

    assert run(hear(listen(local.stream_url), repeat))[1].cause == "lost_messages"


@pytest.mark.parametrize(("code", "cause"), [(10, "disconnected"), (25, "overflow")])
def test_an_error_ends_the_subscription(
    local: LocalExchange, listen: Listen, code: int, cause: str
) -> None:
    sent = {"type": "error", "msg": {"code": code, "msg": "over"}}
    _, error = run(hear(listen(local.stream_url), lambda: local.channel(KEY_ID).say(sent)))
    assert (error.cause, error.code) == (cause, str(code))
    assert error.certain_until is not None


def test_messages_outside_the_subscription_are_ignored(
    local: LocalExchange, listen: Listen
) -> None:
    def talk() -> None:
        for message in ({"type": "new"}, event(1) | {"sid": 9}, {"type": "ok", "id": 5}):
            local.channel(KEY_ID).say(message)
        local.groups(KEY_ID).create("a")
        local.channel(KEY_ID).close(1012, "\x1b[31mmaintenance")

    events, error = run(hear(listen(local.stream_url), talk))
    assert [each.order_group_id for each in events] == ["a"]
    assert error.cause == "disconnected"
    assert "1012" in error.reason
    assert "\\x1b[31mmaintenance" in error.reason


BAD_FRAMES = {
    "not JSON": text("not JSON"),
    "not UTF-8": frame(Opcode.TEXT, b'{"type":"\xff"}'),
    "binary": frame(Opcode.BINARY, b"\x00\x01"),
    "empty": frame(Opcode.TEXT),
    "compressed": frame(Opcode.TEXT, b"\xaa\x56\x4a", rsv1=True),
    "masked": b"\x81\x85\x00\x00\x00\x00hello",
    "reserved opcode": b"\x83\x00",
    "continuation of nothing": frame(Opcode.CONT, b"x"),
    "oversized": frame(Opcode.TEXT, b"x" * (MAX_MESSAGE_SIZE + 1)),
    "huge by its header": b"\x81\x7f" + (2**62).to_bytes(8, "big"),
    "long ping": b"\x89\x7e\x01\x00" + b"x" * 256,
    "deep": text("[" * 100_000),
}


@pytest.mark.parametrize("sent", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_bad_message_ends_its_connection(
    local: LocalExchange, listen: Listen, sent: bytes
) -> None:
    def send() -> None:
        local.groups(KEY_ID).create("a")
        local.channel(KEY_ID).send_bytes(sent)

    events, error = run(hear(listen(local.stream_url), send))
    assert [each.order_group_id for each in events] == ["a"]
    assert error.cause == "invalid_message"
    assert error.reason.isprintable()
    assert len(error.reason) < 500


def test_fragments_are_reassembled(exchange: "Exchange", listen: Listen) -> None:
    whole = json.dumps(event(1)).encode()
    parts = [whole[index : index + 10] for index in range(0, len(whole), 10)]
    frames = [frame(Opcode.TEXT, parts[0], fin=False)]
    frames += [frame(Opcode.CONT, part, fin=False) for part in parts[1:]]
    frames += [frame(Opcode.PING, b"between"), frame(Opcode.CONT)]
    send = subscribed(exchange, lambda connection: connection.sendall(b"".join(frames)))
    exchange.answers = [send]
    events, error = run(hear(listen(raw_url(exchange))))
    assert [each.order_group_id for each in events] == ["g"]
    assert error.cause == "disconnected"


def _endless(pieces: Iterator[bytes], sent: list[int]) -> Callable[[socket.socket], None]:
    """Return a server that sends pieces until the client closes, and adds up the bytes in `sent`.

    It fails if the client accepts an absurd amount.
    """

    def send(connection: socket.socket) -> None:
        connection.settimeout(LONG)
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                return
            sent[0] += len(piece)
            assert sent[0] < 200_000_000, "the client accepts without limit"

    return send


@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000])
def test_an_endless_message_is_bounded(exchange: "Exchange", listen: Listen, size: int) -> None:
    first = frame(Opcode.TEXT, b"[" * size, fin=False)
    rest = itertools.repeat(frame(Opcode.CONT, b"[" * size, fin=False) * (1 if size else 1_000))
    sent = [0]
    exchange.answers = [subscribed(exchange, _endless(itertools.chain([first], rest), sent))]
    _, error = run(hear(listen(raw_url(exchange), silence_timeout=1.0)))
    assert error.cause in {"invalid_message", "disconnected"}
    # The bound is generous, because the size of the sockets' buffers depends on the machine.
    assert sent[0] < 50_000_000


def test_endless_pings_whose_pongs_are_not_read_end_the_connection(
    exchange: "Exchange", listen: Listen
) -> None:
    sent = [0]
    pings = itertools.repeat(frame(Opcode.PING, b"x" * 125) * 100)
    exchange.answers = [subscribed(exchange, _endless(pings, sent))]
    _, error = run(hear(listen(raw_url(exchange))))
    assert error.cause == "disconnected"
    assert "does not read the answers" in error.reason


def test_the_closing_handshake_has_a_deadline(exchange: "Exchange", listen: Listen) -> None:
    ended = threading.Event()

    def never_answer(connection: socket.socket) -> None:
        wait_for_end(connection)
        ended.set()

    exchange.answers = [subscribed(exchange, never_answer)]

    async def main() -> float:
        async with listen(raw_url(exchange)):
            began = time.monotonic()
        return time.monotonic() - began

    assert run(main()) < LONG / 2
    assert ended.wait(LONG)


def test_a_cancelled_reader_leaves_no_task_behind(local: LocalExchange, listen: Listen) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        task = asyncio.create_task(hear(listen(local.stream_url)))
        await asyncio.to_thread(local.channel(KEY_ID).wait_for_subscribers, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before

    run(main())
    local.channel(KEY_ID).wait_for_subscribers(0)


def _close_at_once(exchange: "Exchange") -> Callable[[socket.socket], None]:
    def close(connection: socket.socket) -> None:
        connection.sendall(frame(Opcode.CLOSE, Close(1008, "policy").serialize()))
        wait_for_end(connection)

    return websocket(exchange, close)


def test_a_close_instead_of_an_acknowledgement_has_a_cause(
    exchange: "Exchange", listen: Listen
) -> None:
    exchange.answers = [_close_at_once(exchange)]
    error = run(fail_to_open(listen(raw_url(exchange))))
    assert error.cause == "disconnected"
    assert "1008" in error.reason


@pytest.fixture
def tls(keys: "Keys", monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a context that trusts the exchange's self-signed certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.directory / "certificate.pem"))
    return ssl_context()


def test_tls_is_verified(
    exchange_over_tls: "Exchange",
    listen: Listen,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = subscribed(exchange_over_tls, lambda connection: connection.sendall(text(event(1))))
    exchange_over_tls.answers = [send]
    url = raw_url(exchange_over_tls)
    assert url.startswith("wss:")
    events, _ = run(hear(listen(url, tls=tls)))
    assert len(events) == 1
    monkeypatch.delenv("SSL_CERT_FILE")
    error = run(fail_to_open(listen(url, tls=ssl_context())))
    assert error.cause == "unreachable"
    assert "SSL_CERT_FILE" in error.reason


def test_a_connection_goes_through_a_proxy(
    exchange_over_tls: "Exchange", listen: Listen, tls: ssl.SSLContext
) -> None:
    send = subscribed(exchange_over_tls, lambda connection: connection.sendall(text(event(1))))
    exchange_over_tls.answers = [send]
    proxy = Proxy()
    try:
        address = f"http://user:p%40ss@{proxy.address}"
        connection = listen(raw_url(exchange_over_tls), tls=tls, proxy=address)
        events, _ = run(hear(connection))
        assert len(events) == 1
        assert proxy.heads[0].startswith("CONNECT 127.0.0.1:")
        assert "KALSHI-ACCESS" not in proxy.heads[0].upper()
        proxy.response = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        error = run(fail_to_open(listen(raw_url(exchange_over_tls), tls=tls, proxy=address)))
        assert error.cause == "unreachable"
        assert "the proxy answered 407" in error.reason
        assert "p%40ss" not in error.reason
    finally:
        proxy.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Yield a local proxy."""
    running = Proxy()
    yield running
    running.close()


@pytest.mark.parametrize("credentials", ["", "user:p%40ss@"])
def test_an_unencrypted_connection_is_tunnelled_too(
    local: LocalExchange, listen: Listen, proxy: Proxy, credentials: str
) -> None:
    def talk() -> None:
        local.groups(KEY_ID).create("a")
        local.channel(KEY_ID).close()

    connection = listen(local.stream_url, proxy=f"http://{credentials}{proxy.address}")
    events, _ = run(hear(connection, talk))
    assert [each.order_group_id for each in events] == ["a"]
    (head,) = proxy.heads
    assert head.startswith("CONNECT 127.0.0.1:")
    assert ("Proxy-Authorization: Basic " in head) == bool(credentials)
    assert "KALSHI-ACCESS" not in head.upper()
    (handshake,) = local.handshakes
    assert "Proxy-Authorization" not in handshake.headers


@pytest.mark.parametrize(
    ("response", "drip", "words"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", False, "the proxy answered 502"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", False, "302"),
        (b"no HTTP at all\r\n\r\n", False, "proxy"),
        (b"", False, "proxy"),
        (None, True, "0.3 s"),
    ],
)
def test_a_proxy_that_fails_is_an_unreachable_exchange(  # pytest passes fixtures by name
    local: LocalExchange,
    listen: Listen,
    proxy: Proxy,
    response: bytes | None,
    drip: bool,
    words: str,
) -> None:
    proxy.response, proxy.drip = response, drip
    address = f"http://user:hush@{proxy.address}"
    error = run(fail_to_open(listen(local.stream_url, proxy=address, open_timeout=0.3)))
    assert error.cause == "unreachable"
    assert words in error.reason
    assert "hush" not in error.reason
    assert local.handshakes == []


def test_proxies_in_the_environment_are_not_used(
    local: LocalExchange, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.getsockname()[1]}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{trap.getsockname()[1]}")

        async def main() -> None:
            async with listen(local.stream_url):
                pass

        run(main())


@pytest.mark.parametrize(
    ("exchange_name", "base_url", "url"),
    [
        (
            "predictions",
            "http://127.0.0.1:8080/trade-api/v2",
            "ws://127.0.0.1:8080/trade-api/ws/v2",
        ),
        ("margin", "https://[::1]:1/trade-api/v2", "wss://[::1]:1/trade-api/ws/v2/margin"),
        ("predictions", "https://a.b/gate/trade-api/v2", "wss://a.b/gate/trade-api/ws/v2"),
    ],
)
def test_the_url_is_derived_from_the_base_url(exchange_name: Any, base_url: str, url: str) -> None:
    assert stream_url(exchange_name, environment=None, base_url=base_url) == url


def test_the_url_is_derived_from_the_environment() -> None:
    for exchange_name, urls in STREAM_URLS.items():
        for environment, url in urls.items():
            assert url.startswith("wss://")
            assert stream_url(exchange_name, environment=environment, base_url="") == url
