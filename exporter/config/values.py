"""The kinds of value that a configuration may hold: durations, sizes, names, paths.

`urls` has the kinds of URL, and `keys` says which key holds which.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from exporter.config.environment import UNSAFE, expand
from exporter.config.secrecy import is_credential, is_key

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(
    "".join(rf"(?:{_NUMBER}{unit})?" for unit in ("w", "d", "h", "m", "s", "ms")),
)
_SECONDS = (604_800.0, 86_400.0, 3_600.0, 60.0, 1.0, 0.001)
# Beyond a century, instants computed from a duration would leave the calendar.
_LONGEST = 36_525 * 86_400.0

_SIZE = re.compile(r"([0-9]{1,12})(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

_LONGEST_NAME = 64
_HUGE = 10**100
_LONGEST_PATH = 4_000
_LONGEST_PART = 255  # bytes of a file's name, on every file system that matters

KEY_ID_PLACEHOLDER = "put-your-key-id-here"
"""The placeholder for a key's id in config.example.toml."""

_LOOKS_LIKE_KEY = "what is there now looks like a key or a token"

PORT = "must have a port from 1 to 65535"


class LooksLikeKeyError(ValueError):
    """A key or a token stands where a path belongs; the message does not repeat it."""

    def __init__(self) -> None:
        super().__init__(f"must be a path; {_LOOKS_LIKE_KEY}")


def parse_duration(text: str) -> float:
    """Read a duration as seconds, such as "500ms", "60s", "1m30s", "36h", "7d" or "2w".

    Units stand from the largest to the smallest, each at most once.

    Raises:
        ValueError: it is anything else, or more than a century. The value is not repeated.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError('must be a duration with its unit, such as "500ms", "60s", "1m30s", "7d"')
    seconds = sum(
        float(number) * scale
        for number, scale in zip(match.groups(), _SECONDS, strict=True)
        if number
    )
    if seconds > _LONGEST:
        raise ValueError("must be a duration of at most a century")
    return seconds


def parse_size(text: str) -> int:
    """Read a size as bytes, such as "4096B", "512KiB", "64MiB", "1GiB" or "100MB".

    Raises:
        ValueError: it is anything else. The value is not repeated.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('must be a size with its unit, such as "512KiB", "64MiB", "1GiB", "100MB"')
    return int(match[1]) * _BYTES[match[2]]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of value: its type, its bounds, and how to read it.

    Attributes:
        toml_type: exactly this type is allowed; a boolean is no integer.
        expected: completes "must be".
        parse: from a value of that type and the directory that relative paths start from. Raises
            ValueError if it is impossible; the text, if any, says more than `expected`. It never
            repeats the value, which may be a secret from the environment.
        shown: whether a fault may repeat the value as the file has it.
        expand: how `${NAME}` is replaced before `parse`.
    """

    toml_type: type
    expected: str
    parse: Callable[[Any, Path], object]
    shown: bool = True
    expand: Callable[[str, Mapping[str, str]], str] = expand

    def read(self, value: object, directory: Path, environment: Mapping[str, str]) -> object:
        """Return a value in the form that the program uses.

        Raises:
            UnsetVariableError: its only fault is that a variable is not set.
            ValueError: it is of another type or impossible; one line says why.
        """
        if type(value) is not self.toml_type:
            raise ValueError(f"must be {self.expected}")
        if isinstance(value, str):
            value = self.expand(value, environment)
            if UNSAFE.search(value):
                if is_key(value):
                    raise ValueError(f"must be {self.expected}; {_LOOKS_LIKE_KEY}")
                raise ValueError("must not hold line breaks or control characters")
        try:
            return self.parse(value, directory)
        except LooksLikeKeyError:
            raise ValueError(f"must be {self.expected}; {_LOOKS_LIKE_KEY}") from None
        except ValueError as error:
            raise ValueError(str(error) or f"must be {self.expected}") from None


def duration(least: str, most: str) -> Kind:
    """Return the kind of a duration within these bounds, read as float seconds."""
    low, high = parse_duration(least), parse_duration(most)

    def parse(value: str, _directory: Path) -> float:
        seconds = parse_duration(value)
        if not low <= seconds <= high:
            raise ValueError
        return seconds

    expected = f'a duration with its unit from "{least}" to "{most}", such as "60s" or "1m30s"'
    return Kind(toml_type=str, expected=expected, parse=parse)


def size(least: str, most: str) -> Kind:
    """Return the kind of a size within these bounds, read as bytes."""
    low, high = parse_size(least), parse_size(most)

    def parse(value: str, _directory: Path) -> int:
        count = parse_size(value)
        if not low <= count <= high:
            raise ValueError
        return count

    expected = f'a size with its unit from "{least}" to "{most}", such as "64MiB"'
    return Kind(toml_type=str, expected=expected, parse=parse)


def integer(least: int, most: int) -> Kind:
    """Return the kind of a whole number within these bounds."""

    def parse(value: int, _directory: Path) -> int:
        if not least <= value <= most:
            raise ValueError
        return value

    return Kind(toml_type=int, expected=f"a whole number from {least} to {most}", parse=parse)


def count() -> Kind:
    """Return the kind of a whole number of any size, because the exchange sets the bound."""

    def parse(value: int, _directory: Path) -> int:
        # Python refuses to spell out the largest integers.
        if not 0 <= value < _HUGE:
            raise ValueError
        return value

    return Kind(toml_type=int, expected="a whole number, 0 or larger", parse=parse)


def choice(*choices: str) -> Kind:
    """Return the kind of one of these words, in upper or lower case; read as spelled here."""
    spelling = {word.lower(): word for word in choices}

    def parse(value: str, _directory: Path) -> str:
        if value.lower() not in spelling:
            raise ValueError
        return spelling[value.lower()]

    expected = " or ".join(f'"{word}"' for word in choices)
    return Kind(toml_type=str, expected=expected, parse=parse)


def _account_name(value: str, _directory: Path) -> str:
    # Not every printable text is ASCII, but nothing invisible may tell two names apart.
    if value != value.strip() or not value.isprintable() or not 1 <= len(value) <= _LONGEST_NAME:
        raise ValueError
    if is_credential(value):
        raise ValueError(
            "must not be a key or the id of one: a name is stored and shown everywhere"
        )
    return value


def _key_id(value: str, _directory: Path) -> str:
    if is_key(value):
        raise ValueError("must be the id that Kalshi shows beside the API key, not the key itself")
    if value == KEY_ID_PLACEHOLDER:
        raise ValueError("is still what `kalshi-exporter init` wrote: put your key's id there")
    if "$" in value:
        raise ValueError("must not hold a $: a variable is written ${NAME}, with braces")
    if re.search("[\"'`\u2018-\u201f]", value):
        raise ValueError("must not hold quotes: one pair around the text is enough")
    if not re.fullmatch("[!-~]{1,200}", value):
        raise ValueError
    return value


def path(value: str, directory: Path) -> Path:
    """Read a path, which starts from a directory if it is relative.

    Raises:
        ValueError: it is none; the text, if any, says more than "must be a path".
    """
    if value.startswith("~"):
        raise ValueError("must not start with ~, which only a shell understands: write ${HOME}")
    if not value:
        raise ValueError
    if is_credential(value):
        raise LooksLikeKeyError
    if len(value) > _LONGEST_PATH or any(
        len(part.encode()) > _LONGEST_PART for part in value.split("/")
    ):
        raise ValueError(f"must be a path whose parts have at most {_LONGEST_PART} bytes")
    return directory / value


def _listen(value: str, _directory: Path) -> tuple[str, int]:
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>.+)", value
    )
    if match is None or is_key(value) or is_credential(match["host"] or ""):
        raise ValueError
    return match["v6"] or match["host"], port(match["port"])


def port(text: str) -> int:
    """Read the port of an address.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) < 2**16:
        raise ValueError(PORT)
    return int(text)


BOOLEAN = Kind(toml_type=bool, expected="true or false", parse=lambda value, _directory: value)
ACCOUNT_NAME = Kind(
    toml_type=str,
    expected=f"1 to {_LONGEST_NAME} visible characters without blanks at either end",
    parse=_account_name,
)
# These may hold a secret, if only because a person confuses two keys.
KEY_ID = Kind(
    toml_type=str,
    expected="1 to 200 ASCII characters without blanks, in quotes",
    parse=_key_id,
    shown=False,
)
PATH = Kind(toml_type=str, expected="a path, in quotes", parse=path, shown=False)
KEY_FILE = replace(PATH, expected="the path of the key's file, in quotes")
LISTEN = Kind(
    toml_type=str,
    expected='a host and a port such as "127.0.0.1:9464", "0.0.0.0:9464" or "[::1]:9464"',
    parse=_listen,
)
