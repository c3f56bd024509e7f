"""The URLs of the exchange, its stream, a proxy and the database are checked and normalized."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from exporter.config.urls import secrets_of, without_secrets
from tests.support.configuration import ACCOUNT_TOML, Directory


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/trade-api/v2", "must be https"),
        ("http://127.0.0.1.example.com/", "must be https"),
        ("http://localhost.example.com/", "must be https"),
        ("http://10.0.0.1/", "must be https"),
        ("ftp://example.com", "must be a URL such as"),
        ("example.com/trade-api/v2", "must be a URL such as"),
        ("https:///trade-api/v2", "must be a URL such as"),
        ("https://user:hush@example.com/", "must not hold a user"),
        ("https://example.com/?", "must not hold a user, a query"),
        ("https://example.com/#x", "must not hold a user, a query or a fragment"),
        ("https://example.com:99999/", "a port from 1 to 65535"),
        ("https://example.com:hush/", "a port from 1 to 65535"),
        ("https://[hush]/", "a valid host"),
        ("https://example.com:/", "port"),
        ("https://[::1/", "a valid host"),
        ("https://exa mple.com/", "must be a URL such as"),
    ],
)
def test_a_base_url_is_https_without_user_query_or_fragment(
    directory: Directory, url: str, reason: str
) -> None:
    account = ACCOUNT_TOML.replace('environment = "demo"', f'base_url = "{url}"')
    fault = directory.fault("", account=account)
    assert reason in fault
    assert "hush" not in fault


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1/x", "http://127.9.9.9", "http://[::1]:80/x", "HTTPS://example.com:443/x"],
)
def test_a_base_url_may_be_http_on_loopback(directory: Directory, url: str) -> None:
    account = ACCOUNT_TOML.replace('environment = "demo"', f'base_url = "{url}//"')
    assert directory.load("", account=account).accounts[0].base_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://example.com/trade-api/ws/v2", "must be wss"),
        ("ws://10.0.0.1/", "must be wss"),
        ("https://example.com/trade-api/ws/v2", "must be a URL such as wss://"),
        ("wss://user:hush@example.com/", "must not hold a user"),
        ("wss://example.com/?hush", "must not hold a user, a query"),
        ("wss://example.com:hush/", "a port from 1 to 65535"),
    ],
)
def test_a_stream_url_is_wss_without_user_or_query(
    directory: Directory, url: str, reason: str
) -> None:
    fault = directory.fault("", account=f'{ACCOUNT_TOML}stream_url = "{url}"\n')
    assert reason in fault
    assert "hush" not in fault


@pytest.mark.parametrize(
    "url", ["wss://example.com/trade-api/ws/v2", "ws://127.0.0.1:1/x", "ws://[::1]:1/x"]
)
def test_a_stream_url_may_be_ws_on_loopback(directory: Directory, url: str) -> None:
    configuration = directory.load("", account=f'{ACCOUNT_TOML}stream_url = "{url}"\n')
    assert configuration.accounts[0].stream_url == url


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://me:hu%40sh@proxy:1", "http://me:hu%40sh@proxy:1"),
        ("http://me:${PASSWORD}@proxy:1", "http://me:hu%2Fsh%40@proxy:1"),
        ("${PROXY}", "http://proxy:8080"),
    ],
)
def test_a_proxy_may_have_a_password_which_is_never_shown(
    directory: Directory, written: str, url: str
) -> None:
    directory.environment.update(PASSWORD="hu/sh@", PROXY="http://proxy:8080")
    configuration = directory.load(f'[http]\nproxy = "{written}"\n')
    assert configuration.http.proxy == url
    assert "hu" not in repr(configuration.http)
    assert ("hu/sh@" in configuration.secrets) == ("hu%2F" in url)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("https://proxy:1", "must begin with http://"),
        ("socks5://me:hush@proxy:1", "must begin with http://"),
        ("proxy:3128", "must be a URL such as http://proxy.example:3128"),
        ("http://proxy", "must have a port"),
        ("http://proxy:0", "must have a port"),
        ("http://me:hush@proxy:port", "a port from 1 to 65535"),
        ("http://me:hu@sh@proxy:1", "must have an @ in its user or password written as %40"),
        ("http://proxy:1/hush", "must end after the port"),
        ("http://proxy:1?hush", "must end after the port"),
    ],
)
def test_a_proxy_url_that_would_not_work_is_refused(
    directory: Directory, written: str, reason: str
) -> None:
    fault = directory.fault(f'[http]\nproxy = "{written}"\n')
    assert reason in fault
    assert "hush" not in fault


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("sqlite:///x.db", "sqlite:///{directory}/x.db"),
        ("sqlite:///data/x.db", "sqlite:///{directory}/data/x.db"),
        ("sqlite:////x.db", "sqlite:////x.db"),
        ("sqlite:///${ROOT}/a@b.db", "sqlite:////r@t/a@b.db"),
        ("postgres://h/db", "postgresql+psycopg://h/db"),
        ("postgresql://h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg:///db", "postgresql+psycopg:///db"),
        ("postgresql://u:p@[::1]:5432/db", "postgresql+psycopg://u:p@[::1]:5432/db"),
        (
            "postgresql+psycopg://u:p@/db?host=a:5432&host=b:5432",
            "postgresql+psycopg://u:p@/db?host=a:5432&host=b:5432",
        ),
        (
            "postgresql://u:${ODD}@${HOST}:${PORT}/db?options=${ODD}",
            "postgresql+psycopg://u:%40%2F%25%3F%3A%23@db:5433/db?options=%40%2F%25%3F%3A%23",
        ),
        ("${URL}", "postgresql+psycopg://u:p%40@h/db"),
    ],
)
def test_a_database_url_is_made_absolute_and_names_its_driver(
    directory: Directory, written: str, url: str
) -> None:
    directory.environment.update(
        ODD="@/%?:#", HOST="db", PORT="5433", ROOT="/r@t", URL="postgres://u:p%40@h/db"
    )
    loaded = directory.load(f'[database]\nurl = "{written}"\n').database.url
    assert loaded == url.format(directory=directory.path)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("mysql://u:hush@h/db", "must begin with one of sqlite://, postgresql://"),
        ("postgresql+psycopg2://u:hush@h/db", "postgresql+psycopg://"),
        ("order_groups.db", "must begin with one of"),
        ("sqlite:x.db", "must begin with one of"),
        ("sqlite://", "a database in memory would be lost"),
        ("sqlite:///", "a database in memory would be lost"),
        ("sqlite:///:memory:", "a database in memory would be lost"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///x.db?mode=ro", "must not have options after ?"),
        ("sqlite:///x%20y.db", "a path without ? and %"),
        ("sqlite:///~/x.db", "must not start with ~"),
        ("postgresql://u:hu@sh@h/db", "percent-encoded"),
        ("postgresql://u:hush@a:5432,b:5432/db", "a port from 1 to 65535"),
        ("postgresql://u:hush@h:0/db", "a port from 1 to 65535"),
        ("postgresql://u:hush@h:x/db", "a port from 1 to 65535"),
    ],
)
def test_a_database_url_that_would_not_work_is_refused(
    directory: Directory, written: str, reason: str
) -> None:
    fault = directory.fault(f'[database]\nurl = "{written}"\n')
    assert reason in fault
    assert "hush" not in fault


def test_a_directory_that_no_sqlite_url_can_name_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "100%"
    odd.mkdir()
    assert "a path without ? and %" in Directory(odd).fault("")


def test_postgres_without_its_driver_names_the_extra(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    fault = directory.fault('[database]\nurl = "postgresql://h/db"\n')
    assert "pip install '.[postgres]'" in fault


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])))
def test_sqlalchemy_gets_any_password_back(password: str) -> None:
    url = expanded("postgresql+psycopg://u:${PASSWORD}@h:5432/db", {"PASSWORD": password})
    assert make_url(url).password == password
    assert make_url(url).host == "h"
    assert without_secrets(url) == "postgresql+psycopg://u:***@h:5432/db"
    if password:
        assert password in secrets_of(url)


def expanded(template: str, environment: Mapping[str, str]) -> str:
    from exporter.config.urls import DATABASE_URL

    url = DATABASE_URL.read(template, Path("/"), environment)
    assert isinstance(url, str)
    return url
