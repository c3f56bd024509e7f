"""Requests go through the configured HTTP proxy, whose failures are named without its password."""

import base64
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from exporter.errors import ApiError, ConfigurationError, DeadlineError, UnreachableError
from exporter.http.tls import ssl_context
from exporter.kalshi.budget import RequestBudget
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Answering, Connect, Exchange, Keys

PATH = "/portfolio/order_groups"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Yield a local proxy."""
    running = Proxy()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def trusted(
    connect: "Connect",  # noqa: ARG001  # it first clears the variable that is set here
    keys: "Keys",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trust the exchange's self-signed certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.directory / "certificate.pem"))


def test_requests_go_through_the_tunnel_and_are_kept_alive(
    exchange_over_tls: "Exchange", connect: "Connect", answering: "Answering", proxy: Proxy
) -> None:
    exchange_over_tls.answers = [answering(b"body")]
    session = connect(
        base_url=exchange_over_tls.base_url, proxy=f"http://user:p%40ss@{proxy.address}"
    )
    for _ in range(2):
        assert session.get(PATH, {}, RequestBudget(5), 1024) == b"body"
    (head,) = proxy.heads
    assert head.startswith("CONNECT 127.0.0.1:")
    credentials = base64.b64encode(b"user:p@ss").decode()
    assert f"Proxy-Authorization: Basic {credentials}" in head
    # The exchange's headers do not reach the proxy, nor the proxy's the exchange.
    assert "KALSHI" not in head.upper()
    assert all("Proxy-Authorization" not in each.headers for each in exchange_over_tls.requests)
    assert exchange_over_tls.connections == 1


def failure(connect: "Connect", exchange: "Exchange", proxy: str, seconds: float = 5) -> ApiError:
    """Return the error of one attempt through a proxy."""
    session = connect(base_url=exchange.base_url, proxy=proxy, max_attempts=1)
    with pytest.raises(ApiError) as caught:
        session.get(PATH, {}, RequestBudget(seconds), 1024)
    return caught.value


def test_a_proxy_that_refuses_is_named_without_its_password(
    exchange_over_tls: "Exchange", connect: "Connect", proxy: Proxy
) -> None:
    proxy.response = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    error = failure(connect, exchange_over_tls, f"http://user:hush-hush@{proxy.address}")
    assert isinstance(error, UnreachableError)
    assert "407" in error.reason
    assert f"through the proxy {proxy.address}" in error.reason
    assert "hush" not in error.reason
    assert exchange_over_tls.requests == []


def test_a_proxy_that_drips_is_held_to_the_deadline(
    exchange_over_tls: "Exchange", connect: "Connect", proxy: Proxy
) -> None:
    proxy.drip = True
    began = time.monotonic()
    error = failure(connect, exchange_over_tls, f"http://{proxy.address}", seconds=0.5)
    assert isinstance(error, DeadlineError)
    assert time.monotonic() - began < 3


def test_an_unreachable_proxy_is_an_unreachable_exchange(
    exchange_over_tls: "Exchange", connect: "Connect", proxy: Proxy
) -> None:
    address = proxy.address
    proxy.close()
    error = failure(connect, exchange_over_tls, f"http://{address}")
    assert isinstance(error, UnreachableError)
    assert f"through the proxy {address}" in error.reason


def test_plain_http_to_loopback_goes_through_the_tunnel_too(
    exchange: "Exchange", connect: "Connect", answering: "Answering", proxy: Proxy
) -> None:
    exchange.answers = [answering(b"body")]
    session = connect(proxy=f"http://user:p%40ss@{proxy.address}")
    for _ in range(2):
        assert session.get(PATH, {}, RequestBudget(5), 1024) == b"body"
    (head,) = proxy.heads
    port = exchange.base_url.rpartition(":")[2].partition("/")[0]
    assert head.startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.")
    assert "Proxy-Authorization: Basic " in head
    assert exchange.requests[0].target == f"/trade-api/v2{PATH}"
    assert exchange.requests[0].headers["Host"] == f"127.0.0.1:{port}"
    assert all("Proxy-Authorization" not in each.headers for each in exchange.requests)


def test_a_proxy_in_the_environment_is_not_used_and_a_failure_says_so(
    exchange_over_tls: "Exchange",
    connect: "Connect",
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    exchange_over_tls.answers = [lambda connection: connection.close()]
    session = connect(base_url=exchange_over_tls.base_url, max_attempts=1)
    with pytest.raises(UnreachableError, match=r"set \[http\] proxy"):
        session.get(PATH, {}, RequestBudget(5), 1024)
    assert proxy.heads == []


def test_missing_or_invalid_certificate_authorities_are_named(
    tmp_path: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE names"):
        ssl_context()
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ssl_context()
