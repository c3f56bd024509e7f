"""Decode one message of the channel `order_group_updates`; `stream_protocol` interprets it.

As for the list of groups, a fast path takes what the exchange really sends, and a strict path takes
everything else, decides what is valid and says where it is not.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from exporter.errors import InvalidResponseError
from exporter.kalshi import strict_json
from exporter.kalshi.fields import identifier, int64, is_canonical, take_limit, wrong
from exporter.model import MAX_ID_LENGTH, Int64, OrderGroupEvent
from exporter.text import sanitize

CHANNEL: Final = "order_group_updates"

_MAX_TEXT = 200  # characters of the exchange's own words that are kept

_MAX_FAST_LIMIT = 64  # characters; this bounds the cache of limits

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TS = 253_402_300_799_999  # ms: the end of the year 9999, datetime's last


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    """An event, with its place in the series of a subscription."""

    sid: int
    seq: int
    event: OrderGroupEvent


class SubscribedMessage(msgspec.Struct, frozen=True, gc=False):
    """An acknowledgement; `id` is that of the command, None or 0 if the exchange named none."""

    id: int | None
    sid: int
    channel: str | None


class ErrorMessage(msgspec.Struct, frozen=True, gc=False):
    """An error; `text` is the exchange's own, harmless and bounded."""

    id: int | None
    sid: int | None
    seq: int | None
    code: int | None
    text: str


class OtherMessage(msgspec.Struct, frozen=True, gc=False):
    """Any other message: "ok", "unsubscribed", or one that this version does not know.

    `type` is harmless and bounded.
    """

    type: str
    sid: int | None
    seq: int | None


Message: TypeAlias = EventMessage | SubscribedMessage | ErrorMessage | OtherMessage


def decode(message: bytes, received_at: datetime) -> Message:
    """Decode one message.

    Args:
        message: as received: JSON, or anything else.
        received_at: UTC; goes into the event.

    Raises:
        InvalidResponseError: it cannot be understood; the text says where and why, in one line.
    """
    return _decode_fast(message, received_at) or _decode_strict(message, received_at)


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    event_type: _Name
    order_group_id: _Name
    ts_ms: Annotated[int, msgspec.Meta(ge=0, le=_MAX_TS)] | UnsetType = UNSET
    contracts_limit_fp: Annotated[str, msgspec.Meta(max_length=_MAX_FAST_LIMIT)] | UnsetType = UNSET


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["order_group_updates"]
    sid: Int64
    seq: Int64
    msg: _Event
    sending_ts_ms: int | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Envelope)

# The limits of a burst are few.
_is_canonical = lru_cache(maxsize=256)(is_canonical)


def _decode_fast(message: bytes, received_at: datetime) -> EventMessage | None:
    """Decode an event in its common form; None if the strict path has to be taken."""
    # In a message without escapes, every string has its plain form and holds no control character,
    # because msgspec refuses bare ones.
    if not message.isascii() or b"\\" in message or b"\x7f" in message:
        return None
    try:
        envelope = _decoder.decode(message)
    except (msgspec.DecodeError, RecursionError):
        return None
    fields = envelope.msg
    limit = None if fields.contracts_limit_fp is UNSET else fields.contracts_limit_fp
    # msgspec silently takes the last of duplicate keys. Counting quotes detects them: a message
    # without duplicates has exactly two quotes for each decoded string, keys included.
    strings = 9 + (envelope.sending_ts_ms is not UNSET) + (fields.ts_ms is not UNSET)
    strings += 2 * (limit is not None)
    if message.count(b'"') != 2 * strings or not (limit is None or _is_canonical(limit)):
        return None
    event = OrderGroupEvent(
        order_group_id=fields.order_group_id,
        event_type=fields.event_type,
        event_at=None if fields.ts_ms is UNSET else _instant(fields.ts_ms),
        contracts_limit=limit,
        received_at=received_at,
    )
    return EventMessage(envelope.sid, envelope.seq, event)


def _decode_strict(message: bytes, received_at: datetime) -> Message:
    envelope = strict_json.decode("the message", message)
    if not isinstance(envelope, dict):
        raise wrong("the message", "an object", envelope)
    match envelope.get("type"):
        case "order_group_updates":
            sid, seq = _required("sid", envelope), _required("seq", envelope)
            return EventMessage(sid, seq, _event(_object(envelope), received_at))
        case "subscribed":
            fields = _object(envelope)
            channel = fields.get("channel")
            return SubscribedMessage(
                int64("id", envelope.get("id")),
                _required("msg.sid", fields),
                channel if isinstance(channel, str) else None,
            )
        case "error":
            fields = _object(envelope)
            text = fields.get("msg")
            return ErrorMessage(
                int64("id", envelope.get("id")),
                int64("sid", envelope.get("sid")),
                int64("seq", envelope.get("seq")),
                int64("msg.code", fields.get("code")),
                sanitize(text, _MAX_TEXT) if isinstance(text, str) else "",
            )
        case str(kind):
            shown = sanitize(kind, _MAX_TEXT)
            try:
                return OtherMessage(
                    shown, int64("sid", envelope.get("sid")), int64("seq", envelope.get("seq"))
                )
            except InvalidResponseError:
                if kind in {"ok", "unsubscribed"}:
                    raise
                return OtherMessage(shown, None, None)  # these names may mean anything there
        case kind:
            raise wrong("type", "a string", kind)


def _object(envelope: dict[str, object]) -> dict[str, object]:
    fields = envelope.get("msg")
    if not isinstance(fields, dict):
        raise wrong("msg", "an object", fields)
    return fields


def _event(fields: dict[str, object], received_at: datetime) -> OrderGroupEvent:
    for name in ("event_type", "order_group_id"):
        if name not in fields:
            raise InvalidResponseError(f"msg.{name}: missing")
    event_type = identifier("msg.event_type", fields.pop("event_type"))
    group_id = identifier("msg.order_group_id", fields.pop("order_group_id"))
    ts_ms = int64("msg.ts_ms", fields.pop("ts_ms", None))
    if ts_ms is not None and not 0 <= ts_ms <= _MAX_TS:
        raise InvalidResponseError(f"msg.ts_ms: {ts_ms} ms lie outside the years 1970 to 9999")
    limit = take_limit("msg", fields)
    return OrderGroupEvent(
        order_group_id=group_id,
        event_type=event_type,
        event_at=None if ts_ms is None else _instant(ts_ms),
        contracts_limit=limit,
        received_at=received_at,
        # Unknown fields of the envelope are left out: they may belong to the delivery, as the time
        # of sending does, and two daemons would hear two different events.
        extra=strict_json.canonical("msg", fields) if fields else None,
    )


def _required(where: str, fields: dict[str, object]) -> int:
    value = int64(where, fields.get(where.rpartition(".")[2]))
    if value is None:
        raise InvalidResponseError(f"{where}: missing")
    return value


def _instant(ts_ms: int) -> datetime:
    return _EPOCH + timedelta(0, 0, 0, ts_ms)
