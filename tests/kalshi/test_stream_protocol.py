"""The channel without a socket: each message has its meaning, and some end the stretch."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.causes import POLL_GAP_CAUSES, STREAM_GAP_CAUSES, PollGapCause, StreamGapCause
from exporter.errors import InvalidResponseError, Outcome
from exporter.kalshi import stream_messages
from exporter.kalshi.fields import decimal
from exporter.kalshi.stream_messages import EventMessage, decode
from exporter.kalshi.stream_protocol import (
    ChannelError,
    Ignored,
    InvalidMessage,
    Output,
    SequenceGap,
    StreamProtocol,
    Subscribed,
)
from exporter.model import OrderGroupEvent

NOW = datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event(seq: int = 1, sid: int = 2, **fields: Any) -> dict[str, Any]:
    """Return an event as the exchange sends it; a field that is None is left out."""
    message = {"event_type": "triggered", "order_group_id": "g", "ts_ms": 1_764_000_000_120}
    message |= fields
    return {
        "type": "order_group_updates",
        "sid": sid,
        "seq": seq,
        "sending_ts_ms": 1_764_000_000_123,
        "msg": {name: value for name, value in message.items() if value is not None},
    }


def receive(protocol: StreamProtocol, message: object, at: datetime = NOW) -> Output:
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return protocol.receive(text, at)


@pytest.fixture
def protocol() -> StreamProtocol:
    """Return a protocol whose subscription is acknowledged as `sid` 2."""
    subscribing = StreamProtocol()
    acknowledged = {
        "id": 1,
        "type": "subscribed",
        "msg": {"channel": "order_group_updates", "sid": 2},
    }
    assert receive(subscribing, acknowledged) == Subscribed(2)
    assert subscribing.subscribed
    return subscribing


def test_the_command_to_subscribe_is_as_documented() -> None:
    assert json.loads(StreamProtocol().subscribe()) == {
        "id": 1,
        "cmd": "subscribe",
        "params": {"channels": ["order_group_updates"]},
    }


@pytest.mark.parametrize("kind", ["created", "triggered", "reset", "deleted", "limit_updated", "?"])
def test_an_event_is_decoded_as_sent(protocol: StreamProtocol, kind: str) -> None:
    sent = event(7, event_type=kind, contracts_limit_fp="50.00")
    assert receive(protocol, sent) == OrderGroupEvent(
        order_group_id="g",
        event_type=kind,
        event_at=datetime(2025, 11, 24, 16, 0, 0, 120_000, tzinfo=UTC),
        contracts_limit="50.00",
        received_at=NOW,
    )


@pytest.mark.parametrize(
    ("fields", "limit", "extra"),
    [
        ({"ts_ms": None}, None, None),
        ({"contracts_limit_fp": "2.5"}, "2.50", None),
        ({"contracts_limit_fp": "0050"}, "50.00", None),
        ({"contracts_limit": 50}, "50.00", None),
        ({"reason": {"b": 1.50, "a": "é"}}, None, '{"reason":{"a":"\\u00e9","b":1.5}}'),
    ],
)
def test_the_form_of_an_event_may_vary(
    protocol: StreamProtocol, fields: dict[str, Any], limit: str | None, extra: str | None
) -> None:
    heard = receive(protocol, event(**fields))
    assert isinstance(heard, OrderGroupEvent)
    assert (heard.contracts_limit, heard.extra) == (limit, extra)
    assert (heard.event_at is None) == ("ts_ms" in fields)


def test_an_event_is_equal_on_two_connections(protocol: StreamProtocol) -> None:
    sent = event(1, reason="x")
    other = {**event(900, reason="x"), "sending_ts_ms": 1, "delivery": "another"}
    first = receive(protocol, sent)
    protocol_of_other = StreamProtocol()
    receive(protocol_of_other, {"type": "subscribed", "msg": {"sid": 2}})
    assert receive(protocol_of_other, other) == first
    assert isinstance(first, OrderGroupEvent)
    assert first.extra == '{"reason":"x"}'


def test_null_is_the_same_as_not_sent(protocol: StreamProtocol) -> None:
    sent = event()
    sent["msg"] |= {"ts_ms": None, "contracts_limit_fp": None}
    heard = receive(protocol, sent)
    assert isinstance(heard, OrderGroupEvent)
    assert (heard.event_at, heard.contracts_limit, heard.extra) == (None, None, None)


@pytest.mark.parametrize("first", [1, 7, 0, 10**15])
def test_numbers_may_start_anywhere(protocol: StreamProtocol, first: int) -> None:
    for seq in (first, first + 1, first + 2):
        assert isinstance(receive(protocol, event(seq)), OrderGroupEvent)


@pytest.mark.parametrize("second", [5, 4, 7, 1, 0, -1, 10**18, 2**63 - 1, -(2**63)])
def test_a_number_that_does_not_follow_ends_the_stretch(
    protocol: StreamProtocol, second: int
) -> None:
    first = receive(protocol, event(5), NOW)
    assert isinstance(first, OrderGroupEvent)
    end = receive(protocol, event(second, order_group_id="later"), NOW + timedelta(seconds=1))
    assert isinstance(end, SequenceGap)
    assert (end.cause, end.expected, end.received) == ("lost_messages", 6, second)
    # The event that revealed the gap is kept.
    assert end.event is not None
    assert end.event.order_group_id == "later"
    assert not protocol.subscribed
    assert receive(protocol, event(6)) is end


def test_a_stretch_with_a_sequence_gap_is_intact_until_its_last_event(
    protocol: StreamProtocol,
) -> None:
    happened = NOW + timedelta(milliseconds=877)
    arrived = NOW + timedelta(seconds=2)
    ts_ms = int(happened.timestamp() * 1000)
    receive(protocol, event(1, ts_ms=ts_ms), arrived)
    receive(protocol, event(2, ts_ms=0), arrived)  # an earlier time does not move the end back
    end = receive(protocol, event(4), arrived)
    assert isinstance(end, SequenceGap)
    assert end.intact_until == EPOCH + timedelta(milliseconds=ts_ms)


def test_an_exchange_whose_clock_is_ahead_extends_no_stretch(protocol: StreamProtocol) -> None:
    receive(protocol, event(1, ts_ms=4_000_000_000_000), NOW)
    end = receive(protocol, event(3), NOW)
    assert isinstance(end, SequenceGap)
    assert end.intact_until == NOW


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "ok", "id": 9, "sid": 2, "seq": 2, "msg": []},
        {"type": "ok", "id": 9, "seq": 2},
        {"type": "error", "id": 9, "seq": 2, "msg": {"code": 7, "msg": "unknown sid"}},
        {"type": "something_new", "sid": 2, "seq": 2},
    ],
)
def test_other_messages_of_the_subscription_take_a_number(
    protocol: StreamProtocol, answer: dict[str, Any]
) -> None:
    receive(protocol, event(1))
    assert isinstance(receive(protocol, answer), Ignored)
    assert isinstance(receive(protocol, event(3)), OrderGroupEvent)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "something_new"},
        {"type": "something_new", "seq": 99},
        {"type": "something_new", "sid": "x", "seq": {}, "msg": None},
        {"type": "ticker", "sid": 3, "seq": 1, "msg": {}},
        event(1, sid=3),
        {"type": "subscribed", "id": 2, "msg": {"channel": "ticker", "sid": 3}},
        {"type": "unsubscribed", "id": 2, "sid": 3, "seq": 8},
        {"type": "error", "sid": 3, "msg": {"code": 10, "msg": "channel error"}},
        {"type": "error", "id": 5, "msg": {"code": 25, "msg": "of another command"}},
        {"type": "error", "msg": {}},
    ],
)
def test_messages_outside_the_subscription_are_ignored(
    protocol: StreamProtocol, message: dict[str, Any]
) -> None:
    receive(protocol, event(1))
    assert isinstance(receive(protocol, message), Ignored)
    assert isinstance(receive(protocol, event(2)), OrderGroupEvent)


def test_an_event_before_the_acknowledgement_is_ignored() -> None:
    protocol = StreamProtocol()
    assert isinstance(receive(protocol, event(1)), Ignored)
    assert not protocol.subscribed


@pytest.mark.parametrize("code", range(1, 100))
def test_an_error_in_response_to_the_subscription_refuses_it(code: int) -> None:
    protocol = StreamProtocol()
    end = receive(protocol, {"type": "error", "id": 1, "msg": {"code": code, "msg": "no"}})
    assert isinstance(end, ChannelError)
    assert end.cause == ("unauthorized" if code == 9 else "rejected")
    assert end.reason == f"the exchange refused the subscription with error {code}: no"


@pytest.mark.parametrize("code", range(1, 100))
def test_a_later_error_ends_the_subscription_only_with_certain_codes(
    protocol: StreamProtocol, code: int
) -> None:
    answer = receive(protocol, {"type": "error", "msg": {"code": code, "msg": "\x1b[31mno"}})
    cause = {9: "unauthorized", 10: "disconnected", 25: "overflow"}.get(code)
    if cause is None:
        assert isinstance(answer, Ignored)
        assert answer.reason == f"error {code}: \\x1b[31mno"
    else:
        assert isinstance(answer, ChannelError)
        assert (answer.cause, answer.code, answer.text) == (cause, code, "\\x1b[31mno")
        assert (answer.intact_until == NOW) == (code == 25)


def test_an_unrequested_unsubscription_ends_the_stretch(protocol: StreamProtocol) -> None:
    end = receive(protocol, {"type": "unsubscribed", "id": 0, "sid": 2, "seq": 1})
    assert isinstance(end, ChannelError)
    assert (end.cause, end.code) == ("disconnected", None)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"hello", "not JSON"),
        (b'"text"', "expected an object"),
        (b"[1]", "expected an object"),
        (b"{}", "type: expected a string, got null"),
        (b'{"type":1}', "type: expected a string"),
        (b'{"type":"x","type":"x"}', "stands twice"),
        (b'{"type":"x","a":NaN}', "not JSON"),
        (b'{"type":"\xff"}', "not UTF-8"),
        (b'{"type":"x"} x', "not JSON"),
        (b'{"type":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep"),
        (event(order_group_id=None), "msg.order_group_id: missing"),
        (event(event_type=None), "msg.event_type: missing"),
        (event(order_group_id=""), "1 to 256"),
        (event(order_group_id="x" * 257), "1 to 256"),
        (event(order_group_id="a\nb"), "control"),
        (event(order_group_id="\ud800"), "control"),
        (event(order_group_id=7), "order_group_id"),
        (event(event_type="a\x00"), "control"),
        (event(event_type=""), "event_type"),
        (event(ts_ms="1764000000120"), "ts_ms"),
        (event(ts_ms=1.5), "ts_ms"),
        (event(ts_ms=True), "ts_ms"),
        (event(ts_ms=-1), "outside the years"),
        (event(ts_ms=253_402_300_800_000), "outside the years"),
        (event(ts_ms=10**30), "64 bits"),
        (event(contracts_limit_fp="1e5"), "plain decimal"),
        (event(contracts_limit_fp="9" * 60), "40 digits"),
        (event(contracts_limit_fp=50), "a string"),
        (event(deep=json.loads("[" * 200 + "]" * 200)), "too deep"),
        ({**event(), "sid": None}, "sid: missing"),
        ({**event(), "seq": None}, "seq: missing"),
        ({**event(), "seq": "1"}, "seq"),
        ({**event(), "seq": 1.5}, "seq"),
        ({**event(), "seq": True}, "seq"),
        ({**event(), "seq": 1 + 2**63}, "64 bits"),
        ({**event(), "sid": "2"}, "sid"),
        ({**event(), "sid": 2.5}, "sid"),
        ({**event(), "msg": None}, "msg: expected an object"),
        ({"type": "subscribed", "msg": {"channel": "order_group_updates"}}, "msg.sid: missing"),
        ({"type": "error", "msg": "text"}, "msg: expected an object"),
        ({"type": "error", "msg": {"code": "10"}}, "msg.code"),
        ({"type": "ok", "sid": "2"}, "sid"),
    ],
)
def test_an_invalid_message_ends_the_stretch(
    protocol: StreamProtocol, message: object, words: str
) -> None:
    end = receive(protocol, message)
    assert isinstance(end, InvalidMessage)
    assert end.cause == "invalid_message"
    assert words in end.reason
    assert end.reason.isprintable()
    assert len(end.reason) < 300
    assert receive(protocol, event(1)) is end


@given(st.one_of(st.binary(), st.text().map(str.encode)))
@example(json.dumps(event())[:-1].encode() + b',"seq":1}')
@example(json.dumps(event())[:-1].encode() + b',"s\\u0065q":1}')
@example(json.dumps(event()).encode().replace(b'"ts_ms"', b'"event_type":"x","ts_ms"'))
def test_no_message_raises_an_exception(message: bytes) -> None:
    protocol = StreamProtocol()
    protocol.receive(b'{"type":"subscribed","msg":{"sid":2}}', NOW)
    assert isinstance(protocol.receive(message, NOW), InvalidMessage)


_floats = st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | _floats,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["order_group_updates", "subscribed", "error", "ok", "unsubscribed", "new"]
            )
            | _json,
            "id": st.integers(0, 2) | _json,
            "sid": st.integers(1, 3) | _json,
            "seq": st.integers(0, 3) | _json,
            "msg": st.fixed_dictionaries(
                {},
                optional={
                    "event_type": st.just("reset") | _json,
                    "order_group_id": st.just("g") | _json,
                    "ts_ms": st.integers(0, 2**45) | _json,
                    "contracts_limit_fp": st.just("1.00") | _json,
                    "code": st.integers(0, 99) | _json,
                    "sid": st.integers(1, 3) | _json,
                    "msg": _json,
                },
            )
            | _json,
        },
    )
)
def test_any_json_gives_an_output(message: dict[str, Any]) -> None:
    protocol = StreamProtocol()
    for _ in range(2):
        output = receive(protocol, message)
        assert isinstance(output, Output)  # type: ignore[arg-type,misc,unused-ignore]  # `Output` is a union
        reason = getattr(output, "reason", "")
        assert reason.isprintable()
        assert len(reason) < 500


_identifiers = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
_limits = st.decimals(0, 10**9, places=2).map(str)
_known = {"event_type", "order_group_id", "ts_ms", "contracts_limit_fp", "contracts_limit"}
_unknown_names = st.text().filter(lambda name: name not in _known)


@given(
    st.fixed_dictionaries(
        {"event_type": _identifiers, "order_group_id": _identifiers},
        optional={
            "ts_ms": st.integers(0, 253_402_300_799_999),
            "contracts_limit_fp": _limits,
        },
    ),
    st.dictionaries(_unknown_names, _json, max_size=2),
    st.booleans(),
)
def test_valid_events_round_trip(
    fields: dict[str, Any], extra: dict[str, Any], ascii_only: bool
) -> None:
    sent = {"type": "order_group_updates", "sid": 2, "seq": 3, "msg": fields | extra}
    text = json.dumps(sent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        text.decode()
    except UnicodeDecodeError:
        with pytest.raises(InvalidResponseError):
            decode(text, NOW)
        return
    decoded = decode(text, NOW)
    assert isinstance(decoded, EventMessage)
    assert (decoded.sid, decoded.seq) == (2, 3)
    heard = decoded.event
    back: dict[str, Any] = {"event_type": heard.event_type, "order_group_id": heard.order_group_id}
    if heard.event_at is not None:
        back["ts_ms"] = (heard.event_at - EPOCH) // timedelta(milliseconds=1)
    if heard.contracts_limit is not None:
        back["contracts_limit_fp"] = heard.contracts_limit
    if "contracts_limit_fp" in fields:
        fields = fields | {"contracts_limit_fp": decimal(fields["contracts_limit_fp"])}
    assert back == fields
    assert json.loads(heard.extra or "{}") == extra
    assert (heard.extra or "").isascii()


@given(
    st.fixed_dictionaries(
        {"event_type": st.text(max_size=5), "order_group_id": st.text(max_size=5)},
        optional={"ts_ms": st.integers(-1, 2**50), "contracts_limit_fp": _limits},
    ),
    st.booleans(),
)
def test_the_fast_path_agrees_with_the_strict_decoder(fields: dict[str, Any], spaced: bool) -> None:
    sent = {"type": "order_group_updates", "sid": 1, "seq": 1, "msg": fields}
    text = json.dumps(sent, separators=None if spaced else (",", ":")).encode()
    fast = stream_messages._decode_fast(text, NOW)
    if fast is not None:
        assert fast == stream_messages._decode_strict(text, NOW)


def test_a_burst_is_decoded_at_a_rate_comparable_to_msgspec() -> None:
    """The reference is msgspec alone, which does not check for duplicate keys or sequence gaps."""
    texts = [
        json.dumps(event(seq, contracts_limit_fp="50.00"), separators=(",", ":")).encode()
        for seq in range(20_000)
    ]

    class Message(msgspec.Struct):
        event_type: str
        order_group_id: str
        ts_ms: int
        contracts_limit_fp: str

    class Envelope(msgspec.Struct):
        type: str
        sid: int
        seq: int
        sending_ts_ms: int
        msg: Message

    decoder = msgspec.json.Decoder(Envelope)

    def timed(work: Any) -> float:
        began = time.process_time()
        for text in texts:
            work(text)
        return time.process_time() - began

    floor = min(timed(decoder.decode) for _ in range(3))

    def own() -> float:
        fresh = StreamProtocol()
        fresh.receive(b'{"type":"subscribed","msg":{"sid":2}}', NOW)
        return timed(lambda text: fresh.receive(text, NOW))

    assert min(own() for _ in range(3)) < 25 * floor


def test_every_cause_has_a_sentence() -> None:
    assert set(STREAM_GAP_CAUSES) == set(get_args(StreamGapCause))
    assert set(POLL_GAP_CAUSES) == set(get_args(PollGapCause))
    assert set(get_args(Outcome)) - {"ok"} == set(get_args(PollGapCause)) - {
        "not_running",
        "not_kept",
    }
