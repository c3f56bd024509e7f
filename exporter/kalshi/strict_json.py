"""Decode JSON strictly and encode it canonically, for parts of a response without a schema.

Python's own decoder accepts NaN and duplicate keys, and rounds numbers to floats. Here each number
stays the text that was sent.
"""

import json
import os
import re
from json.encoder import encode_basestring_ascii
from typing import NoReturn

import msgspec

from exporter.errors import InvalidResponseError
from exporter.text import sanitize

_LARGEST = 4 * 1024 * 1024  # bytes; text takes up to four times as much while it is decoded
_MOST_VALUES = 200_000  # each takes a hundred times what it costs its sender
_DEEPEST = 100  # levels of nesting


class Number:
    """The text of a number as it was sent, without a type."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def decode(where: str, text: bytes | msgspec.Raw) -> object:
    """Decode one value into dict, list, str, bool, None and `Number`.

    Args:
        where: the name of the value in errors.
        text: JSON.

    Raises:
        InvalidResponseError: it is no valid JSON in UTF-8, is too large, or has a key twice.
    """
    if len(text) > _LARGEST:
        raise InvalidResponseError(f"{where}: larger than {_LARGEST} bytes")
    text = bytes(text)
    if len(text) > _MOST_VALUES and sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidResponseError(f"{where}: more than {_MOST_VALUES} values")
    try:
        value: object = _decode(text.decode("utf-8"))
    except RecursionError:
        raise _too_deep(where) from None
    except UnicodeDecodeError as error:
        raise InvalidResponseError(f"{where}: not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise InvalidResponseError(f"{where}: not JSON: {sanitize(str(error), 100)}") from None
    return value


def canonical(where: str, value: object) -> str:
    """Return a decoded value as JSON in ASCII with sorted keys, no spaces, and numbers as sent.

    Raises:
        InvalidResponseError: it is nested too deep for the databases.
    """
    try:
        return _canonical(value, _DEEPEST)
    except RecursionError:
        raise _too_deep(where) from None


def _canonical(value: object, levels: int) -> str:
    match value:
        case str():
            return encode_basestring_ascii(value)
        case Number():
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
    assert isinstance(value, list)  # noqa: S101  # JSON has no more types
    return f"[{','.join(_canonical(each, levels - 1) for each in value)}]"


class Surrogates:
    r"""A substitute for the escaped surrogates of a document while msgspec splits it.

    msgspec refuses lone ones, such as `\ud800`, even in parts that it skips; but JSON allows them.
    """

    _ESCAPE = re.compile(rb"(?<=\\)u(?=[dD][89a-fA-F])")

    def __init__(self, document: bytes) -> None:
        # The mark is random, so that no sender can have written it into the document.
        mark = b"u0000" + os.urandom(8).hex().encode()
        self._mark = mark if self._ESCAPE.search(document) else None

    def hidden(self, document: bytes) -> bytes:
        """Return the document without surrogates."""
        return document if self._mark is None else self._ESCAPE.sub(self._mark, document)

    def restored(self, value: bytes | msgspec.Raw) -> bytes | msgspec.Raw:
        """Return a part of the document with its surrogates."""
        return value if self._mark is None else bytes(value).replace(self._mark, b"u")

    def restored_name(self, name: str) -> str:
        """Return a decoded key of the document with its surrogates."""
        if self._mark is None:
            return name
        restored: str = json.loads(bytes(self.restored(json.dumps(name).encode())))
        return restored


def _too_deep(where: str) -> InvalidResponseError:
    return InvalidResponseError(f"{where}: nested too deep")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        refuse_duplicate([name for name, _ in pairs])
    return members


def refuse_duplicate(names: list[str]) -> NoReturn:
    """Raise the InvalidResponseError that says which of an object's keys stands there twice."""
    twice = next(name for name in names if names.count(name) > 1)
    raise InvalidResponseError(f"the key {sanitize(repr(twice), 60)} stands twice in one object")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_decode = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_constant=_refuse_constant,
    parse_float=Number,
    parse_int=Number,
).decode
