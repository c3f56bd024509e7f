"""The kinds of value that a configuration may hold: durations, sizes, paths, URLs.

`config_keys` says which key holds which.
"""

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

# What no text here may hold: it would end a line, garble a terminal, or fit no encoding.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLACEHOLDER = re.compile(r"\$(?P<escape>\$)?\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?")

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

_POSTGRES = "postgresql+psycopg"
_SCHEMES = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    _POSTGRES: _POSTGRES,
}

# The parts as SQLAlchemy takes a URL apart, so that what passes here means the same there; only
# stricter where it would take half a password for the host.
_SERVER = re.compile(
    r"(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[[0-9A-Fa-f:.%]+\]|[^/:?@\[\]]*)"
    r"(?::(?P<port>[^/?@]*))?"
    r"(?:/[^?]*)?"
    r"(?:\?(?P<query>.*))?"
)
_PASSWORD = re.compile(r"(?<=://)([^:/]*:)([^@]*)(?=@)")
_QUERY_PASSWORD = re.compile(r"(?<=[?&])((?:ssl)?password=)([^&]*)")

_LARGEST_PORT = 65_535
_ADDRESS = f"must have a valid host, and a port from 1 to {_LARGEST_PORT} or none"


def expand(template: str, environment: Mapping[str, str]) -> str:
    """The text with every `${NAME}` taken from the environment; `$${` stands for a literal `${`.

    Raises:
        ValueError: if a variable is not set or not usable, or a `${` names none.
    """
    return _expand(template, environment, lambda value, _start: value)


def expand_url(template: str, environment: Mapping[str, str]) -> str:
    """As `expand`, for a database URL: a value may hold any character where it is a credential.

    Values in the user, the password and the options after `?` are percent-encoded, so that a
    password with `@`, `/` or `%` works as it is. Other parts, SQLite's path, and a URL that is one
    `${NAME}` and nothing else, are taken as they are.

    Raises:
        ValueError: as `expand`.
    """
    whole = _PLACEHOLDER.fullmatch(template)
    if whole or template.startswith("sqlite"):
        return expand(template, environment)
    question = template.find("?")
    at = template.rfind("@", 0, question if question >= 0 else None)

    def encode(value: str, start: int) -> str:
        return quote(value, safe="") if start < at or 0 <= question < start else value

    return _expand(template, environment, encode)


def _expand(
    template: str, environment: Mapping[str, str], encode: Callable[[str, int], str]
) -> str:
    problems = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if match["escape"]:
            return match.group()[1:]
        if name is None:
            problems.append("${ must be followed by a name and }, and a literal ${ is written $${")
        elif name not in environment:
            problems.append(f"environment variable {name} is not set")
        elif _UNSAFE.search(environment[name]):
            problems.append(f"environment variable {name} holds a line break or control character")
        else:
            return encode(environment[name], match.start())
        return ""

    text = _PLACEHOLDER.sub(replace, template)
    if problems:
        raise ValueError(", ".join(dict.fromkeys(problems)))
    return text


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "500ms", "60s", "1m30s", "36h", "7d" or "2w".

    Units stand from the largest to the smallest, each at most once.

    Raises:
        ValueError: if it is anything else, or more than a century. The value is not repeated.
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
    """Bytes of a size such as "4096B", "512KiB", "64MiB", "1GiB" or "100MB".

    Raises:
        ValueError: if it is anything else. The value is not repeated.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('must be a size with its unit, such as "512KiB", "64MiB", "1GiB", "100MB"')
    return int(match[1]) * _BYTES[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one sort of value may be, and how it is read.

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
        """The value as the program uses it.

        Raises:
            ValueError: if it is of another type or impossible, with one line that says why.
        """
        if type(value) is not self.toml_type:
            raise ValueError(f"must be {self.expected}")
        if isinstance(value, str):
            value = self.expand(value, environment)
            if value.lstrip().startswith("-----BEGIN"):
                raise ValueError("must be the path of the key's file, not the key itself")
            if _UNSAFE.search(value):
                raise ValueError("must not hold line breaks or control characters")
        try:
            return self.parse(value, directory)
        except ValueError as error:
            raise ValueError(str(error) or f"must be {self.expected}") from None


def duration(least: str, most: str) -> Kind:
    """A duration within these bounds, as float seconds."""
    low, high = parse_duration(least), parse_duration(most)

    def parse(value: str, _directory: Path) -> float:
        seconds = parse_duration(value)
        if not low <= seconds <= high:
            raise ValueError
        return seconds

    expected = f'a duration with its unit from "{least}" to "{most}", such as "60s" or "1m30s"'
    return Kind(toml_type=str, expected=expected, parse=parse)


def size(least: str, most: str) -> Kind:
    """A size within these bounds, as bytes."""
    low, high = parse_size(least), parse_size(most)

    def parse(value: str, _directory: Path) -> int:
        count = parse_size(value)
        if not low <= count <= high:
            raise ValueError
        return count

    expected = f'a size with its unit from "{least}" to "{most}", such as "64MiB"'
    return Kind(toml_type=str, expected=expected, parse=parse)


def integer(least: int, most: int) -> Kind:
    """A whole number within these bounds."""

    def parse(value: int, _directory: Path) -> int:
        if not least <= value <= most:
            raise ValueError
        return value

    return Kind(toml_type=int, expected=f"a whole number from {least} to {most}", parse=parse)


def count() -> Kind:
    """A whole number, however large: its bound is not ours to know."""

    def parse(value: int, _directory: Path) -> int:
        # Python refuses to spell out the largest integers.
        if not 0 <= value < _HUGE:
            raise ValueError
        return value

    return Kind(toml_type=int, expected="a whole number, 0 or larger", parse=parse)


def choice(*choices: str) -> Kind:
    """One of these words, in whatever case; spelled as here afterwards."""
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
    return value


def _key_id(value: str, _directory: Path) -> str:
    if not re.fullmatch("[!-~]{1,200}", value):
        raise ValueError
    return value


def _path(value: str, directory: Path) -> Path:
    if value.startswith("~"):
        raise ValueError("must not start with ~, which only a shell understands: write ${HOME}")
    if not value:
        raise ValueError
    return directory / value


def _listen(value: str, _directory: Path) -> tuple[str, int]:
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>.+)", value
    )
    if match is None:
        raise ValueError
    return match["v6"] or match["host"], _port(match["port"])


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _LARGEST_PORT:
        raise ValueError(f"must have a port from 1 to {_LARGEST_PORT}")
    return int(text)


def _address(value: str, secure: str, plain: str) -> SplitResult:
    """Take a URL apart that is an address and nothing else; plain only on this machine."""
    parts = _split(value)
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("must not hold a user, a query or a fragment")
    if parts.scheme not in {secure, plain} or not parts.hostname:
        raise ValueError
    if parts.netloc.endswith(":") or parts.port == 0:
        raise ValueError(_ADDRESS)
    if parts.scheme == plain and not _is_loopback(parts.hostname):
        raise ValueError(f"must be {secure}, {plain} is only for this machine itself (127.0.0.1)")
    return parts


def _split(value: str) -> SplitResult:
    if not re.fullmatch("[!-~]+", value):
        raise ValueError
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # whose text repeats what may be a secret
        raise ValueError(_ADDRESS) from None
    return parts


def _base_url(value: str, _directory: Path) -> str:
    _address(value, "https", "http")
    return value.rstrip("/")


def _stream_url(value: str, _directory: Path) -> str:
    _address(value, "wss", "ws")
    return value


def _proxy(value: str, _directory: Path) -> str:
    parts = _split(value)
    if parts.scheme in {"https", "socks4", "socks5", "socks5h"}:
        raise ValueError("must begin with http://, no other kind of proxy is supported")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError
    if not parts.port:
        raise ValueError(f"must have a port from 1 to {_LARGEST_PORT}")
    if "@" in parts.netloc.rpartition("@")[0]:
        raise ValueError("must have an @ in its user or password written as %40")
    if parts.path not in {"", "/"} or "?" in value or "#" in value:
        raise ValueError("must end after the port")
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    import ipaddress  # noqa: PLC0415 - only for http, so never in production

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _database_url(value: str, directory: Path) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(
            "must begin with one of "
            + ", ".join(f"{known}://" for known in ("sqlite", "postgresql", _POSTGRES))
        )
    scheme = _SCHEMES[scheme]
    return f"{scheme}://{(_server if scheme == _POSTGRES else _sqlite)(rest, directory)}"


def _sqlite(rest: str, directory: Path) -> str:
    path = rest.removeprefix("/")
    if path in {"", ":memory:"}:
        raise ValueError(
            "must name a file: a database in memory would be lost when the process ends"
        )
    if not rest.startswith("/"):
        raise ValueError(
            "must have three slashes before a relative path and four before an absolute one"
        )
    absolute = _path(path, directory)
    if "?" in path:
        raise ValueError("must not have options after ?, the exporter sets what it needs itself")
    if re.search("[?%]", str(absolute)):
        raise ValueError("must lead to a path without ? and %, which URLs give another meaning")
    return f"/{absolute}"


def _server(rest: str, _directory: Path) -> str:
    match = _SERVER.fullmatch(rest)
    if match is None:
        raise ValueError(
            "must have user, password, host and port as in //user:password@host:5432/database, "
            "with special characters of user and password percent-encoded (a value from "
            "${NAME} is encoded by itself) and several hosts as ?host=a:5432&host=b:5432"
        )
    if match["port"]:
        _port(match["port"])
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError("needs the Postgres driver: pip install 'kalshi-exporter[postgres]'")
    return rest


def without_password(url: str) -> str:
    """A database URL that people may see: `***` in place of its password."""
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1***", url))


def passwords(url: str) -> tuple[str, ...]:
    """The passwords in a database URL, each as it stands there and decoded."""
    found = [
        match[2] for pattern in (_PASSWORD, _QUERY_PASSWORD) for match in pattern.finditer(url)
    ]
    return tuple(dict.fromkeys(form for text in found for form in (text, unquote(text)) if form))


_LONGEST_NAME = 64
_HUGE = 10**100

BOOLEAN = Kind(toml_type=bool, expected="true or false", parse=lambda value, _directory: value)
ACCOUNT_NAME = Kind(
    toml_type=str,
    expected=f"1 to {_LONGEST_NAME} visible characters without blanks at either end",
    parse=_account_name,
)
# The next four may hold a secret, some of them when a person mistakes what belongs there.
KEY_ID = Kind(
    toml_type=str,
    expected="1 to 200 ASCII characters without blanks, in quotes",
    parse=_key_id,
    shown=False,
)
PATH = Kind(toml_type=str, expected="a path, in quotes", parse=_path, shown=False)
BASE_URL = Kind(
    toml_type=str,
    expected="a URL such as https://external-api.kalshi.com/trade-api/v2",
    parse=_base_url,
    shown=False,
)
STREAM_URL = Kind(
    toml_type=str,
    expected="a URL such as wss://external-api-ws.kalshi.com/trade-api/ws/v2",
    parse=_stream_url,
    shown=False,
)
PROXY = Kind(
    toml_type=str,
    expected="a URL such as http://proxy.example:3128 or http://user:password@proxy.example:3128",
    parse=_proxy,
    shown=False,
    expand=expand_url,
)
DATABASE_URL = Kind(
    toml_type=str,
    expected="a URL such as sqlite:///order_groups.db, in quotes",
    parse=_database_url,
    shown=False,
    expand=expand_url,
)
LISTEN = Kind(
    toml_type=str,
    expected='a host and a port such as "127.0.0.1:9464", "0.0.0.0:9464" or "[::1]:9464"',
    parse=_listen,
)
