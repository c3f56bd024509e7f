"""Decode one page of the endpoint for `order_groups`: bytes become `OrderGroup`s, or an error.

Two paths lead to the same result. The fast path takes what the exchange really sends: plain ASCII,
known fields, limits with two decimals; it decodes all groups at once. The strict path takes
everything else: it decodes each group separately, decides what is valid, and says where it is not.
"""

from collections.abc import Callable, Iterator
from unicodedata import category

import msgspec
from msgspec import UNSET, UnsetType

from exporter.errors import InvalidResponseError
from exporter.kalshi import strict_json
from exporter.kalshi.fields import are_canonical, identifier, int64, take_limit, wrong
from exporter.kalshi.strict_json import Surrogates
from exporter.model import OrderGroup
from exporter.text import sanitize

# This version is part of every digest. Raise it whenever the same bytes would decode to something
# else, so that equal digests still mean equal groups.
VERSION = b"1"

_LONGEST_CURSOR = 4096  # characters
_SHOWN = 40  # characters of a wrong value that an error quotes

# These limits bound the memory that a response takes, however its sender uses the allowed bytes.
_MOST_GROUPS = 250_000  # two and a half times as many as a user may have
_MOST_UNKNOWN = 32 * 1024 * 1024  # characters of all groups' `extra`
_MOST_VALUES = 1_200_000  # on the strict path: eleven fields of each of 100,000 groups
_MOST_NAMES = 1_000  # beside `order_groups`
_MOST_QUOTES = 12 * _MOST_GROUPS + 6  # on the fast path, with all the fields that it knows

_GROUPS_AT_A_TIME = 1_000  # between two checks of the deadline


class Page(msgspec.Struct, frozen=True):
    """One page: its groups in the order sent, and the cursor of the next; None on the last."""

    groups: list[OrderGroup]
    cursor: str | None


class ResponseLimits:
    """The limits that hold for all pages of one response together.

    Args:
        check: called now and then while decoding; raises once time is used up.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.check = check
        self._groups = _MOST_GROUPS
        self._unknown = _MOST_UNKNOWN

    def take_groups(self, count: int) -> None:
        """Count groups.

        Raises:
            InvalidResponseError: there are too many.
        """
        self._groups -= count
        if self._groups < 0:
            raise InvalidResponseError(f"the response has more than {_MOST_GROUPS} groups")

    def take_unknown(self, count: int) -> None:
        """Count characters of unknown fields.

        Raises:
            InvalidResponseError: there are too many.
        """
        self._unknown -= count
        if self._unknown < 0:
            raise InvalidResponseError(
                f"the fields that this version does not know have more than {_MOST_UNKNOWN}"
                " characters"
            )


def decode(body: bytes, bounds: ResponseLimits | None = None) -> Page:
    """Return the page in the body of a 200.

    The fields are those of https://docs.kalshi.com/api-reference/orders/get-order-groups and those
    that the service has been seen to send: `contracts_limit_fp` and `exchange_index`, and
    `contracts_limit` in older responses. Null in one of these three means not sent.

    Args:
        body: as received.
        bounds: the limits, of which earlier pages may have used a part; fresh ones if None.

    Raises:
        InvalidResponseError: the body is not one complete, valid page; the text says where.
    """
    bounds = bounds or ResponseLimits()
    return _decode_fast(body, bounds) or _decode_strict(body, bounds)


class _Page(msgspec.Struct, forbid_unknown_fields=True):
    order_groups: list[OrderGroup]
    cursor: str | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_Page)


def _decode_fast(body: bytes, bounds: ResponseLimits) -> Page | None:
    """Return the page if it has the common form; None if only the strict path can decode it."""
    # In a body without escapes, every string has its plain form and holds no control character,
    # because msgspec refuses bare ones.
    if not body.isascii() or b"\\" in body or b"\x7f" in body:
        return None
    quotes = body.count(b'"')
    if quotes > _MOST_QUOTES:
        return None
    try:
        page = _decoder.decode(body)
        cursor = _next(page.cursor or None)
    except (msgspec.DecodeError, RecursionError, InvalidResponseError):
        return None  # the strict path finds the fault again, and says where
    groups = page.order_groups
    limits = [group.contracts_limit for group in groups]
    indexes = [group.exchange_index for group in groups]
    # msgspec silently takes the last of duplicate keys. Counting quotes detects them: a body
    # without duplicates has exactly two quotes for each decoded string, keys included.
    strings = 1 + (page.cursor is not UNSET) + isinstance(page.cursor, str)
    strings += 6 * len(groups) - 2 * limits.count(None) - indexes.count(None)
    if quotes != 2 * strings or not are_canonical(limits):
        return None
    bounds.take_groups(len(groups))
    return Page(groups, cursor)


def _decode_strict(body: bytes, bounds: ResponseLimits) -> Page:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidResponseError(f"the response has more than {_MOST_VALUES} values")
    surrogates = Surrogates(body)
    members = _members(surrogates.hidden(body), surrogates)
    # Beside the groups nothing is used but the cursor, yet all of it has to be valid.
    others = {
        name: strict_json.decode(sanitize(name, _SHOWN), surrogates.restored(value))
        for name, value in members.items()
        if name != "order_groups"
    }
    elements = _elements(members.get("order_groups"))
    if elements is None:
        # Only an otherwise empty object means that there are no groups. An object with a cursor or
        # an error in it means something else, and taking it for an empty list would end the
        # history of every group.
        if others:
            raise InvalidResponseError(
                "the response has no order_groups, but " + sanitize(", ".join(sorted(others)), 100)
            )
        return Page([], None)
    cursor = others.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise wrong("cursor", "a string", cursor)
    bounds.take_groups(len(elements))
    next_cursor = _next(cursor)
    return Page(list(_groups(elements, surrogates, bounds)), next_cursor)


class _Name:
    """A key that is unequal to another with the same text, so that a dictionary holds both."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _members(body: bytes, surrogates: Surrogates) -> dict[str, msgspec.Raw]:
    """Return the members of the response, not yet decoded."""
    names: list[str] = []

    def name(_: type, text: str) -> _Name:
        names.append(surrogates.restored_name(text))
        if len(names) > _MOST_NAMES:
            raise InvalidResponseError(f"the response has more than {_MOST_NAMES} keys")
        return _Name(names[-1])

    try:
        members = msgspec.json.decode(body, type=dict[_Name, msgspec.Raw], dec_hook=name)
    except msgspec.ValidationError:
        got = strict_json.decode("the response", body)
        raise wrong("the response", "an object", got) from None
    except UnicodeDecodeError as error:
        raise InvalidResponseError(f"the response is not UTF-8: {error.reason}") from None
    except msgspec.DecodeError as error:
        raise InvalidResponseError(
            f"the response is not JSON: {sanitize(str(error), 100)}"
        ) from None
    except RecursionError:
        raise InvalidResponseError("the response is nested too deep") from None
    if len(set(names)) != len(names):
        strict_json.refuse_duplicate(names)
    return {name.text: value for name, value in members.items()}


def _elements(groups: msgspec.Raw | None) -> list[msgspec.Raw] | None:
    """Return the groups, not yet decoded; None if the list was not sent, or null."""
    if groups is None:
        return None
    try:
        return msgspec.json.decode(groups, type=list[msgspec.Raw] | None)
    except msgspec.ValidationError:
        got = strict_json.decode("order_groups", groups)
        raise wrong("order_groups", "an array", got) from None


def _groups(
    elements: list[msgspec.Raw], surrogates: Surrogates, bounds: ResponseLimits
) -> Iterator[OrderGroup]:
    elements.reverse()
    for index in range(len(elements)):
        if not index % _GROUPS_AT_A_TIME:
            bounds.check()
        where = f"order_groups[{index}]"
        # `pop` frees the memory of each element before the next one is decoded.
        group = _group(where, strict_json.decode(where, surrogates.restored(elements.pop())))
        bounds.take_unknown(len(group.extra or ""))
        yield group


def _group(where: str, fields: object) -> OrderGroup:
    if not isinstance(fields, dict):
        raise wrong(where, "an object", fields)
    for name in ("id", "is_auto_cancel_enabled"):
        if name not in fields:
            raise InvalidResponseError(f"{where}.{name}: missing")
    group_id = identifier(f"{where}.id", fields.pop("id"))
    enabled = fields.pop("is_auto_cancel_enabled")
    if not isinstance(enabled, bool):
        raise wrong(f"{where}.is_auto_cancel_enabled", "true or false", enabled)
    limit = take_limit(where, fields)
    index = int64(f"{where}.exchange_index", fields.pop("exchange_index", None))
    extra = strict_json.canonical(where, fields) if fields else None
    return OrderGroup(group_id, enabled, limit, index, extra)


def _next(cursor: str | None) -> str | None:
    """Return the cursor of the next page; None if this is the last."""
    if cursor is None or cursor == "":
        return None
    if len(cursor) > _LONGEST_CURSOR:
        raise InvalidResponseError(f"cursor: expected at most {_LONGEST_CURSOR} characters")
    if any(category(each) == "Cs" for each in cursor):
        raise InvalidResponseError("cursor: holds a lone surrogate")
    return cursor
