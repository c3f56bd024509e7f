"""Check single values from the exchange: each gets its type, or an error that says where it is."""

import re
from collections.abc import Sequence
from unicodedata import category

import msgspec

from exporter.errors import InvalidResponseError
from exporter.kalshi import strict_json
from exporter.kalshi.strict_json import Number
from exporter.model import MAX_ID_LENGTH, Int64
from exporter.text import sanitize

_DIGITS = 40  # of a number that this version understands, its two decimals included
_SHOWN = 40  # characters of a wrong value that an error quotes

_DECIMAL = re.compile(r"-?([0-9]+)(?:\.([0-9]+))?")
_INTEGER = re.compile(rf"-?[0-9]{{1,{_DIGITS - 2}}}")
# Lines of limits as the exchange sends them, which have the form that `decimal` gives.
_PLAIN_LINES = re.compile(r"(?:(?:0|[1-9][0-9]{0,17})\.[0-9]{2}\n)*+")


def identifier(where: str, value: object) -> str:
    """Return `value` if both databases can hold it as part of a key.

    Raises:
        InvalidResponseError: it is no string of 1 to 256 characters, or has a control character.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH:
        raise wrong(where, f"a string of 1 to {MAX_ID_LENGTH} characters", value)
    if not value.isprintable() and any(category(each) in {"Cc", "Cs"} for each in value):
        # No database can store a lone surrogate either.
        raise wrong(where, "a string without control characters", value)
    return value


def take_limit(where: str, fields: dict[str, object]) -> str | None:
    """Remove the contracts limit from an object and return it as an exact decimal.

    Returns:
        None if it was not sent.

    Raises:
        InvalidResponseError: a field that holds it is not valid.
    """
    limit = _fixed_point(f"{where}.contracts_limit_fp", fields.pop("contracts_limit_fp", None))
    older = _integer(f"{where}.contracts_limit", fields.get("contracts_limit"))
    # If the older field contradicts the newer one, the newer one counts, and the older one is kept
    # among the unknown fields, so that nothing is lost.
    if older is None or limit in {None, older}:
        limit = limit or older
        fields.pop("contracts_limit", None)
    return limit


def int64(where: str, value: object) -> int | None:
    """Return a decoded number as an integer, and None for null.

    Raises:
        InvalidResponseError: it is no integer of at most 64 bits.
    """
    if value is None:
        return None
    try:
        # The fast path takes 1e3 for an integer too.
        return msgspec.json.decode(value.text if isinstance(value, Number) else '""', type=Int64)
    except msgspec.ValidationError:
        raise wrong(where, "an integer of at most 64 bits", value) from None


def decimal(text: str) -> str:
    """Return a plain decimal with two decimals, or as many as it needs: one form per value.

    Raises:
        InvalidResponseError: it has another form, such as an exponent, or more than 40 digits.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidResponseError("not a plain decimal")
    digits = f"{match[1].lstrip('0') or '0'}.{(match[2] or '').rstrip('0').ljust(2, '0')}"
    if len(digits) > _DIGITS + len("."):
        raise InvalidResponseError("too many digits")
    return f"-{digits}" if text[0] == "-" and digits != "0.00" else digits


def are_canonical(limits: Sequence[str | None]) -> bool:
    """Return whether each limit has the form that `decimal` gives it; None has."""
    texts = [limit for limit in limits if limit is not None]
    lines = "\n".join(texts) + "\n" if texts else ""
    # One search through all of them takes 5 ms for 100,000 limits; one for each takes 200 ms.
    if _PLAIN_LINES.fullmatch(lines) and lines.count("\n") == len(texts):
        return True
    return all(map(is_canonical, set(texts)))


def is_canonical(limit: str | None) -> bool:
    """Return whether a limit has the form that `decimal` gives it; None has."""
    try:
        return limit is None or decimal(limit) == limit
    except InvalidResponseError:
        return False


def wrong(where: str, expected: str, got: object) -> InvalidResponseError:
    """Return the error for a decoded value that is not valid."""
    match got:
        case str():
            shown = sanitize(f'"{got}"', _SHOWN)
        case dict():
            shown = "an object"
        case list():
            shown = "an array"
        case _:
            shown = sanitize(strict_json.canonical(where, got), _SHOWN)
    return InvalidResponseError(f"{where}: expected {expected}, got {shown}")


def _fixed_point(where: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise wrong(where, "a string", value)
    try:
        return decimal(value)
    except InvalidResponseError:
        raise wrong(where, f"a plain decimal of at most {_DIGITS} digits", value) from None


def _integer(where: str, value: object) -> str | None:
    """Return an integer as a decimal."""
    if value is None:
        return None
    if not isinstance(value, Number) or not _INTEGER.fullmatch(value.text):
        raise wrong(where, f"an integer of at most {_DIGITS - 2} digits", value)
    return decimal(value.text)
