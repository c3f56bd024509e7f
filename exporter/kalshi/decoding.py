"""Decodes one page of the endpoint for `order_groups`: bytes become `OrderGroup`s, or an error.

Two ways lead to the same result. The short one is for what the exchange sends in fact: plain
ASCII, known fields, nothing superfluous; a tenth of a second for 100,000 groups. The long one is
for everything else, and is the one that decides what is valid and says where it is not.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Annotated, NoReturn
from unicodedata import category

import msgspec
from msgspec import UNSET, UnsetType

from exporter.errors import InvalidResponseError
from exporter.kalshi.text import clean
from exporter.model import OrderGroup

# Goes into every digest: raise it whenever the same bytes would decode to something else, so that
# equal digests keep meaning equal groups.
VERSION = b"1"

_DEEPEST = 100  # levels of nesting inside a group
_LONGEST_ID = 256  # characters
_LONGEST_CURSOR = 4096  # characters
_DIGITS = 40  # of a number that this version understands
# Values in an answer that takes the long way, where each costs a hundred times what it costs the
# sender: ten fields of each of the 100,000 groups that a user may have.
_MOST_VALUES = 1_000_000
_SHOWN = 40  # characters of a wrong value that an error quotes

_DECIMAL = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?")
_INTEGER = re.compile(rf"-?[0-9]{{1,{_DIGITS}}}")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its groups in the order sent, and the cursor of the next; None on the last."""

    groups: list[OrderGroup]
    cursor: str | None


def decode(body: bytes) -> Page:
    """Decodes the body of a 200.

    The fields are those of https://docs.kalshi.com/api-reference/orders/get-order-groups and those
    that the service has been seen to send: `contracts_limit_fp` and `exchange_index`, and
    `contracts_limit` in older answers. Null in one of these three is the same as not sent.

    Raises:
        InvalidResponseError: the body is not one complete, valid page; the text says where.
    """
    page = _decode_short(body)
    return _decode_long(body) if page is None else page


# What msgspec can encode again; longer numbers take the long way.
_Int64 = Annotated[int, msgspec.Meta(ge=_INT64.start, le=_INT64.stop - 1)]


class _Group(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_ID)]
    is_auto_cancel_enabled: bool
    contracts_limit_fp: str | UnsetType | None = UNSET
    contracts_limit: _Int64 | UnsetType | None = UNSET
    exchange_index: _Int64 | UnsetType | None = UNSET


class _Page(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    order_groups: list[_Group]
    cursor: str | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_Page)


def _decode_short(body: bytes) -> Page | None:
    """The page, if it is as plain as it usually is; None if the long way has to be taken."""
    # Without escapes, every string stands in the body as the encoder would write it, and holds no
    # control character: msgspec refuses bare ones.
    if not body.isascii() or b"\\" in body or b"\x7f" in body:
        return None
    try:
        page = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    # msgspec takes the last of duplicate keys in silence. But its encoder writes each field once,
    # in the shortest way there is, so that its text is as long as a body that had nothing twice.
    if len(msgspec.json.encode(page)) != len(body.rstrip()):
        return None
    try:
        return Page([_known(group) for group in page.order_groups], _next(page.cursor or None))
    except InvalidResponseError:
        return None  # the long way finds it again, and says where


def _known(group: _Group) -> OrderGroup:
    fixed_point = None if group.contracts_limit_fp is UNSET else group.contracts_limit_fp
    older = None if group.contracts_limit is UNSET else group.contracts_limit
    limit, contradicted = _limit(None if fixed_point is None else decimal(fixed_point), older)
    return OrderGroup(
        group.id,
        group.is_auto_cancel_enabled,
        limit,
        None if group.exchange_index is UNSET else group.exchange_index,
        f'{{"contracts_limit":{older}}}' if contradicted else None,
    )


def _limit(fixed_point: Decimal | None, older: int | None) -> tuple[Decimal | None, bool]:
    """The limit that two fields give, and whether the older one contradicts the newer.

    The newer one holds then, and the older goes where unknown fields go, for nothing sent is lost.
    """
    if older is None:
        return fixed_point, False
    limit = decimal(str(older))
    return (limit, False) if fixed_point is None else (fixed_point, fixed_point != limit)


class _Number:
    """A number as it was sent; it means nothing until a known field gives it a type."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _decode_long(body: bytes) -> Page:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidResponseError(f"the answer has more than {_MOST_VALUES} values")
    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_Number,
            parse_int=_Number,
        )
    except UnicodeDecodeError as error:
        raise InvalidResponseError(
            f"the answer is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except ValueError as error:
        raise InvalidResponseError(f"the answer is not JSON: {clean(str(error), 100)}") from None
    except RecursionError:
        raise InvalidResponseError("the answer is nested too deep") from None
    if not isinstance(document, dict):
        raise _wrong("the answer", "an object", document)
    groups = document.get("order_groups")
    if groups is None:
        # Only where nothing else is said does silence mean that there are no groups: an object
        # with a cursor or an error in it was meant to be something else, and taking it for an
        # empty list would end the history of every group.
        if document.keys() - {"order_groups"}:
            raise InvalidResponseError(
                "the answer has no order_groups, but "
                + clean(", ".join(sorted(document.keys() - {"order_groups"})), 100)
            )
        return Page([], None)
    if not isinstance(groups, list):
        raise _wrong("order_groups", "an array", groups)
    cursor = document.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise _wrong("cursor", "a string", cursor)
    return Page([_group(index, group) for index, group in enumerate(groups)], _next(cursor))


def _group(index: int, fields: object) -> OrderGroup:
    if not isinstance(fields, dict):
        raise _wrong(f"order_groups[{index}]", "an object", fields)
    where = f"order_groups[{index}]."
    for name in ("id", "is_auto_cancel_enabled"):
        if name not in fields:
            raise InvalidResponseError(f"{where}{name}: missing")
    group_id = _id(f"{where}id", fields.pop("id"))
    enabled = fields.pop("is_auto_cancel_enabled")
    if not isinstance(enabled, bool):
        raise _wrong(f"{where}is_auto_cancel_enabled", "true or false", enabled)
    fixed_point = _fixed_point(f"{where}contracts_limit_fp", fields.pop("contracts_limit_fp", None))
    older = _integer(f"{where}contracts_limit", fields.get("contracts_limit"))
    limit, contradicted = _limit(fixed_point, older)
    if not contradicted:
        fields.pop("contracts_limit", None)
    shard = _integer(f"{where}exchange_index", fields.pop("exchange_index", None))
    if shard is not None and shard not in _INT64:
        raise InvalidResponseError(f"{where}exchange_index: expected 64 bits at most")
    try:
        extra = _canonical(fields, _DEEPEST) if fields else None
    except RecursionError:
        raise InvalidResponseError(f"order_groups[{index}]: nested too deep") from None
    return OrderGroup(group_id, enabled, limit, shard, extra)


def _id(where: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_ID:
        raise _wrong(where, f"a string of 1 to {_LONGEST_ID} characters", value)
    if not value.isprintable() and any(category(each) in {"Cc", "Cs"} for each in value):
        # Nor a lone surrogate, which no database can store.
        raise _wrong(where, "a string without control characters", value)
    return value


def _fixed_point(where: str, value: object) -> Decimal | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    try:
        return decimal(value)
    except InvalidResponseError:
        raise _wrong(where, f"a plain decimal of at most {_DIGITS} digits", value) from None


def _integer(where: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, _Number) or not _INTEGER.fullmatch(value.text):
        raise _wrong(where, f"an integer of at most {_DIGITS} digits", value)
    return int(value.text)


def _next(cursor: str | None) -> str | None:
    """The cursor of the next page; None if this is the last."""
    if cursor is None or cursor == "":
        return None
    if len(cursor) > _LONGEST_CURSOR:
        raise InvalidResponseError(f"cursor: expected at most {_LONGEST_CURSOR} characters")
    if any(category(each) == "Cs" for each in cursor):
        raise InvalidResponseError("cursor: holds a lone surrogate")
    return cursor


# More than the different limits that an account is likely to have: with fewer places than those,
# each poll would make all of them anew.
@lru_cache(maxsize=65_536)
def decimal(text: str) -> Decimal:
    """A plain decimal with at least two decimals and no more than it needs: one form per value.

    Raises:
        InvalidResponseError: another form, such as an exponent, or more than 40 digits.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None or len(match[1]) + len(match[2] or "") > _DIGITS:
        raise InvalidResponseError("not a plain decimal")
    decimals = (match[2] or "").rstrip("0").ljust(2, "0")
    # From text, which is exact whatever the context's precision.
    value = Decimal(f"{text.partition('.')[0]}.{decimals}")
    return value or value.copy_abs()


def _canonical(value: object, levels: int) -> str:
    """A value as JSON text in ASCII with sorted keys, without spaces, its numbers as sent."""
    match value:
        case str():
            return encode_basestring_ascii(value)
        case _Number():
            return value.text
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
    if not levels:
        raise RecursionError
    if isinstance(value, dict):
        members = (
            f"{encode_basestring_ascii(name)}:{_canonical(value[name], levels - 1)}"
            for name in sorted(value)
        )
        return f"{{{','.join(members)}}}"
    assert isinstance(value, list)  # noqa: S101 - JSON has no more types
    return f"[{','.join(_canonical(each, levels - 1) for each in value)}]"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidResponseError(f"the key {clean(repr(twice), 60)} stands twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidResponseError(f"the answer is not JSON: {name} is no number")


def _wrong(where: str, expected: str, got: object) -> InvalidResponseError:
    match got:
        case str():
            shown = clean(f'"{got}"', _SHOWN)
        case dict():
            shown = "an object"
        case list():
            shown = "an array"
        case _:
            shown = clean(_canonical(got, 0), _SHOWN)
    return InvalidResponseError(f"{where}: expected {expected}, got {shown}")
