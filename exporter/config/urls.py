"""The URLs that a configuration may hold: of the database, the exchange, a proxy, a healthcheck.

SQLAlchemy takes database URLs apart, so that what passes here means the same there. Importing it
costs nothing: whoever reads a configuration opens the database next.
"""

import importlib.util
import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from exporter.config.environment import expand_url
from exporter.config.secrecy import is_credential, is_key
from exporter.config.values import PORT, Kind, path, port
from exporter.installing import install_command

_POSTGRES = "postgresql+psycopg"
_SCHEMES = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    _POSTGRES: _POSTGRES,
}
_PASSWORD = re.compile(r"(?<=://)([^:/]*:)([^@]*)(?=@)")
_OPTION = re.compile(r"(?<=[?&])((?:ssl)?password=)([^&]*)")
# A user, a host, a database or an option; SQLite's paths are judged as paths.
_NAME = re.compile(r"(?<=//)[^/@:]+(?=@)|(?<=[/@=?&])[^/@:?&=*]+(?=[/@:?&=]|$)")

_ADDRESS = "must have a valid host, and a port from 1 to 65535 or none"
_CREDENTIALS = (
    "must have user, password, host and port as in //user:password@host:5432/database, "
    "with special characters of user and password percent-encoded (a value from "
    "${NAME} is encoded by itself) and several hosts as ?host=a:5432&host=b:5432"
)


def _split(value: str) -> SplitResult:
    if not re.fullmatch("[!-~]+", value):
        raise ValueError
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # its text repeats what may be a secret
        raise ValueError(_ADDRESS) from None
    # A host is looked up, which shows it to whoever runs the name server.
    if is_key(parts.hostname or ""):
        raise ValueError("must not hold a key")
    return parts


def _address(value: str, secure: str, plain: str) -> None:
    """Refuse anything but a bare address, and the plain scheme except on this machine."""
    parts = _split(value)
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("must not hold a user, a query or a fragment")
    if parts.scheme not in {secure, plain} or not parts.hostname:
        raise ValueError
    if parts.netloc.endswith(":") or parts.port == 0:
        raise ValueError(_ADDRESS)
    if parts.scheme == plain and not is_loopback(parts.hostname):
        raise ValueError(f"must be {secure}, {plain} is only for this machine itself (127.0.0.1)")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _healthcheck_url(value: str, _directory: Path) -> str:
    _address(value, "https", "http")
    return value.rstrip("/")


def _base_url(value: str, _directory: Path) -> str:
    _refuse_a_key(value)
    _address(value, "https", "http")
    return value.rstrip("/")


def _stream_url(value: str, _directory: Path) -> str:
    _refuse_a_key(value)
    _address(value, "wss", "ws")
    return value


def _refuse_a_key(value: str) -> None:
    # These addresses are shown, by `check` and in the log.
    if is_key(value) or any(map(is_credential, re.split("[/:.]", value))):
        raise ValueError("must be an address, and not hold a key or the id of one")


def _proxy(value: str, _directory: Path) -> str:
    parts = _split(value)
    if parts.scheme in {"https", "socks4", "socks5", "socks5h"}:
        raise ValueError("must begin with http://, no other kind of proxy is supported")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError
    if not parts.port:
        raise ValueError(PORT)
    if "@" in parts.netloc.rpartition("@")[0]:
        raise ValueError("must have an @ in its user or password written as %40")
    if parts.path not in {"", "/"} or "?" in value or "#" in value:
        raise ValueError("must end after the port")
    _refuse_a_key(parts.netloc.rpartition("@")[2])
    return value.rstrip("/")


def _database_url(value: str, directory: Path) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(
            "must begin with one of "
            + ", ".join(f"{known}://" for known in ("sqlite", "postgresql", _POSTGRES))
        )
    scheme = _SCHEMES[scheme]
    if scheme == _POSTGRES:
        _refuse_unusable(rest)
        return f"{scheme}://{rest}"
    return f"{scheme}://{_sqlite(rest, directory)}"


def _sqlite(rest: str, directory: Path) -> str:
    file = rest.removeprefix("/")
    if file in {"", ":memory:"}:
        raise ValueError(
            "must name a file: a database in memory would be lost when the process ends"
        )
    if not rest.startswith("/"):
        raise ValueError(
            "must have three slashes before a relative path and four before an absolute one"
        )
    absolute = path(file, directory)
    if "?" in file:
        raise ValueError("must not have options after ?, the exporter sets what it needs itself")
    if re.search("[?%]", str(absolute)):
        raise ValueError("must lead to a path without ? and %, which URLs give another meaning")
    return f"/{absolute}"


def _refuse_unusable(rest: str) -> None:
    """Refuse a Postgres URL that SQLAlchemy would not read as its author meant it."""
    try:
        url = make_url(f"{_POSTGRES}://{rest}")
    except (ArgumentError, ValueError):  # a port that is no number; the text repeats it
        raise ValueError(PORT) from None
    if url.port is not None:
        port(str(url.port))
    # If a special character is not encoded, a part of the password becomes the host.
    if "@" in f"{url.host}{url.database}":
        raise ValueError(_CREDENTIALS)
    if is_key("\n".join(filter(None, (url.username, url.host, url.database)))):
        raise ValueError("must not hold a key in its user, host or database")
    if not all(re.fullmatch("[A-Za-z_]{1,40}", option) for option in url.query):
        raise ValueError("must have options by name after its ?, such as ?sslmode=require")
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError(f"needs the Postgres driver: {install_command('postgres')}")


def without_secrets(url: str) -> str:
    """Return the URL of a database or a proxy with `***` in place of its secrets.

    SQLAlchemy's own `URL.render_as_string` shows `sslpassword`, and spells the rest of the URL in
    another way; but the spool identifies a database by this text, which must not change.
    """
    url = _OPTION.sub(r"\1***", _PASSWORD.sub(r"\1***", url))
    for name in _credentials(url):
        url = url.replace(name, "***")
    return url


def secrets_of(url: str) -> tuple[str, ...]:
    """Return the secrets in a URL of a database or a proxy, each as written and decoded.

    They are passwords, and names that look like a key or a token.
    """
    found = [match[2] for pattern in (_PASSWORD, _OPTION) for match in pattern.finditer(url)]
    found += _credentials(url)
    return tuple(dict.fromkeys(form for text in found for form in (text, unquote(text)) if form))


def _credentials(url: str) -> list[str]:
    if url.startswith("sqlite"):
        return []
    return [name for name in _NAME.findall(url) if is_credential(unquote(name))]


# None of them is shown in a fault: each may hold a secret.
HEALTHCHECK_URL = Kind(
    toml_type=str,
    expected="a URL such as https://hc-ping.com/and-a-secret",
    parse=_healthcheck_url,
    shown=False,
)
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
