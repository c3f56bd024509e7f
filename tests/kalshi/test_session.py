"""The session signs each request, retries what may be retried, and leaks nothing."""

import base64
import json
import logging
import re
import socket
import struct
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from exporter.errors import (
    ApiError,
    ConfigurationError,
    Exit,
    InvalidResponseError,
    RateLimitedError,
    RejectedError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.session import SignedSession

if TYPE_CHECKING:
    from tests.support.servers import Answering, Connect, Exchange, Keys

PATH = "/portfolio/order_groups"
MEBIBYTE = 1024 * 1024


def get(session: SignedSession, budget: RequestBudget | None = None, **parameters: str) -> bytes:
    return session.get(PATH, parameters, budget or RequestBudget(5), MEBIBYTE)


def failure(session: SignedSession, budget: RequestBudget | None = None) -> ApiError:
    """Return the error of a request, whose text must be short and printable."""
    with pytest.raises(ApiError) as caught:
        get(session, budget)
    assert len(caught.value.reason) < 700
    assert caught.value.reason.isprintable()
    return caught.value


def test_a_request_is_signed_as_documented(
    exchange: "Exchange", connect: "Connect", keys: "Keys", answering: "Answering"
) -> None:
    exchange.answers = [answering(b"body")]
    before = time.time() * 1000
    assert get(connect(), subaccount="3", cursor="a b&c") == b"body"
    (request,) = exchange.requests
    assert request.method == "GET"
    assert request.path == "/trade-api/v2/portfolio/order_groups"
    assert request.query == {"subaccount": ["3"], "cursor": ["a b&c"]}
    timestamp = request.headers["KALSHI-ACCESS-TIMESTAMP"]
    assert before - 1 <= int(timestamp) <= time.time() * 1000
    keys.rsa_private.public_key().verify(
        base64.b64decode(request.headers["KALSHI-ACCESS-SIGNATURE"]),
        f"{timestamp}GET/trade-api/v2/portfolio/order_groups".encode(),
        padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32),
        hashes.SHA256(),
    )
    assert request.headers["User-Agent"].startswith("kalshi-exporter/")
    assert {name for name in request.headers if name.startswith("KALSHI")} == {
        "KALSHI-ACCESS-KEY",
        "KALSHI-ACCESS-TIMESTAMP",
        "KALSHI-ACCESS-SIGNATURE",
    }


def test_every_attempt_is_signed_afresh(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering(status=503), answering(status=429), answering(b"body")]
    budget = RequestBudget(5)
    assert get(connect(), budget) == b"body"
    assert (budget.attempts, budget.http_status) == (3, 200)
    assert len({request.headers["KALSHI-ACCESS-SIGNATURE"] for request in exchange.requests}) == 3
    stamps = [int(request.headers["KALSHI-ACCESS-TIMESTAMP"]) for request in exchange.requests]
    assert stamps == sorted(stamps)
    assert exchange.connections == 1


@pytest.mark.parametrize(
    ("status", "kind", "attempts"),
    [
        (400, RejectedError, 1),
        (401, UnauthorizedError, 1),
        (403, UnauthorizedError, 1),
        (404, RejectedError, 1),
        (418, RejectedError, 1),
        (304, RejectedError, 1),
        (429, RateLimitedError, 4),
        (500, ServerError, 4),
        (503, ServerError, 4),
        (599, ServerError, 4),
        (201, InvalidResponseError, 1),
        (204, InvalidResponseError, 1),
        (206, InvalidResponseError, 1),
        (101, InvalidResponseError, 1),
        (999, InvalidResponseError, 1),
    ],
)
def test_only_429_and_5xx_are_retried(
    *,
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    status: int,
    kind: type[ApiError],
    attempts: int,
) -> None:
    exchange.answers = [answering({"code": "x"}, status)]
    budget = RequestBudget(5)
    error = failure(connect(), budget)
    assert type(error) is kind
    assert error.http_status == status == budget.http_status
    assert str(status) in error.reason
    assert len(exchange.requests) == budget.attempts == attempts


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_and_leak_nothing(
    exchange: "Exchange", connect: "Connect", answering: "Answering", status: int
) -> None:
    target = exchange.base_url.replace("127.0.0.1", "localhost")
    bomb = bytes(100 * MEBIBYTE)
    exchange.answers = [answering(bomb, status, compress=True, Location=f"{target}/elsewhere")]
    began = time.monotonic()
    assert "redirects are not followed" in failure(connect()).reason
    assert time.monotonic() - began < 1
    assert len(exchange.requests) == 1


@pytest.mark.parametrize("location", ["http://[", "http://\xff.." * 9, "//:0:0", "\x01", ""])
def test_a_malformed_redirect_is_rejected(
    exchange: "Exchange", connect: "Connect", answering: "Answering", location: str
) -> None:
    exchange.answers = [answering(status=302, Location=location)]
    assert isinstance(failure(connect()), RejectedError)


def test_the_environment_changes_nothing(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    exchange.answers = [answering(b"body")]
    assert get(connect()) == b"body"
    assert "Authorization" not in exchange.requests[0].headers


def test_cookies_are_not_kept(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering(b"body", Set_Cookie="a=b; Path=/")]
    session = connect()
    get(session)
    get(session)
    assert all("Cookie" not in request.headers for request in exchange.requests)
    assert exchange.connections == 1


def test_retry_after_in_seconds_is_obeyed(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering(status=429, Retry_After="1"), answering(b"body")]
    began = time.monotonic()
    assert get(connect()) == b"body"
    assert 1 <= time.monotonic() - began < 2


def test_retry_after_as_a_date_is_measured_by_the_exchanges_clock(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    date = formatdate(1_000_000_000, usegmt=True)
    until = formatdate(1_000_000_001, usegmt=True)
    exchange.answers = [answering(status=503, Date=date, Retry_After=until), answering(b"body")]
    began = time.monotonic()
    assert get(connect()) == b"body"
    assert 1 <= time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("60", 60),
        (formatdate(1_000_000_060, usegmt=True), 60),
        ("9" * 5000, 86_400),
        (formatdate(999_999_999, usegmt=True), 0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_retry_after_is_kept_on_the_error(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    header: str,
    seconds: float | None,
) -> None:
    date = formatdate(1_000_000_000, usegmt=True)
    exchange.answers = [answering(status=429, Date=date, Retry_After=header)]
    budget = RequestBudget(5)
    error = failure(connect(max_attempts=2), budget)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == seconds
    # A wait that would exceed the deadline is not started.
    assert budget.attempts == (1 if seconds else 2)


def test_a_stop_ends_the_wait(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering(status=503, Retry_After="30")]
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    assert isinstance(failure(connect(stop=stop), RequestBudget(60)), ServerError)
    assert time.monotonic() - began < 2
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(
    ("body", "code", "message", "details", "service"),
    [
        (
            {"code": "c", "message": "m", "details": "d", "service": "s"},
            *("c", "m", "d", "s"),
        ),
        ({"error": {"code": "c:123", "message": "m", "details": "d"}}, "c:123", "m", "d", None),
        ({"error": "too many requests"}, None, "too many requests", None, None),
        ({"msg": "m"}, None, "m", None, None),
        ({"code": 7, "message": ["x", 1], "details": None}, "7", '["x", 1]', None, None),
        ({"code": "", "message": {}}, None, "{}", None, None),
        ("text", None, "text", None, None),
        (b"null", None, None, None, None),
        (b"", None, None, None, None),
        (b"<html><head><title>502 Bad\nGateway</title>", None, "502 Bad Gateway", None, None),
        (b"plain\n\x1b[31m  text", None, r"plain \x1b[31m text", None, None),
        (b'{"code":"a\\u0000\\ud800\\u202e"}', r"a\x00\ud800\u202e", None, None, None),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_error_bodies_of_every_form_are_read(
    *,
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    body: object,
    code: str | None,
    message: str | None,
    details: str | None,
    service: str | None,
    compress: bool,
) -> None:
    exchange.answers = [answering(body, 400, compress=compress)]
    error = failure(connect())
    assert (error.code, error.message, error.details, error.service) == (
        code,
        message,
        details,
        service,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00" * 1000,
        b"x" * 10 * MEBIBYTE,
        b"[" * 60_000,
        b'{"code":' * 8_000,
        b'{"message":' + b"[" * 900 + b"]" * 900 + b"}",
        json.dumps({"code": "\x1b" * 5000, "message": "\u2028" * 5000}).encode(),
        b'{"code":' + b"9" * 5000 + b"}",
        b"<title" * 10_000,
    ],
)
def test_hostile_error_bodies_stay_one_bounded_line(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    caplog: pytest.LogCaptureFixture,
    body: bytes,
) -> None:
    exchange.answers = [answering(body, 500)]
    error = failure(connect(max_attempts=2))
    assert isinstance(error, ServerError)
    for text in (error.code, error.message, error.details, error.service):
        assert text is None or (len(text) <= 300 and text.isprintable())
    (record,) = caplog.records
    for text in (record.getMessage(), error.reason):
        assert text.isprintable()
        assert len(text) < 600


@pytest.mark.parametrize("content_encoding", ["gzip", "br"])
def test_an_unreadable_error_body_keeps_the_status(
    exchange: "Exchange", connect: "Connect", answering: "Answering", content_encoding: str
) -> None:
    exchange.answers = [answering(b"garbage", 503, Content_Encoding=content_encoding)]
    assert isinstance(failure(connect(max_attempts=1)), ServerError)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>", "Attention Required!"),
        (b"<html><body>blocked</body></html>", ""),
        (b"error code: 1015", "error code: 1015"),
        (b'"forbidden"', "forbidden"),
        (b"[1]", ""),
        (b"\xff\xfe", ""),
    ],
)
def test_only_the_exchange_itself_refuses_credentials(
    *,
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    status: int,
    body: bytes,
    words: str,
) -> None:
    exchange.answers = [answering(body, status)]
    error = failure(connect())
    assert error.outcome == "unreachable"
    assert error.exit_code == Exit.UNAVAILABLE
    assert error.http_status == status
    assert "the key was not judged" in error.reason
    assert words in error.reason
    # A retry would get the same page.
    assert len(exchange.requests) == 1


def test_a_404_suggests_checking_base_url(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering({"error": {"code": "not_found", "message": "not found"}}, 404)]
    error = failure(connect())
    assert error.outcome == "rejected"
    assert error.code == "not_found"
    assert "check base_url" in error.reason


@pytest.mark.parametrize(
    ("body", "seconds", "words"),
    [
        ({"code": "header_timestamp_expired"}, 45, "clock is 4[345] s behind the exchange's"),
        ({"code": "header_timestamp_expired:x"}, -45, "clock is 4[567] s ahead of the exchange's"),
        ({"code": "header_timestamp_expired"}, None, "check this machine's clock"),
        ({"code": "authentication_error"}, 60, "clock is (60|59|58) s behind"),
        (
            {"code": "authentication_error", "details": "INCORRECT_API_KEY_SIGNATURE"},
            0,
            "private_key_file is not the key",
        ),
        ({"code": "authentication_error", "details": "NOT_FOUND"}, 0, "no such key in this env"),
        ({"error": {"code": "signature_is_missing_from_headers"}}, 0, "removes headers"),
        ({}, 0, "check key_id"),
    ],
)
def test_a_401_names_its_likely_cause(
    *,
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    body: object,
    seconds: int | None,
    words: str,
) -> None:
    date = "nonsense" if seconds is None else formatdate(time.time() + seconds, usegmt=True)
    exchange.answers = [answering(body, 401, Date=date)]
    error = failure(connect())
    # On a busy machine the request comes some seconds after the date was made.
    assert re.search(words, error.reason)
    assert "key …abcd" in error.reason
    assert "0d1e2f3a" not in error.reason


@pytest.mark.parametrize(
    ("date", "skew"),
    [(0, 0), (3600, -3_600_000), (-3600, 3_600_000)],
)
def test_clock_skew_is_measured(
    exchange: "Exchange", connect: "Connect", answering: "Answering", date: int, skew: int
) -> None:
    exchange.answers = [answering(b"", Date=formatdate(time.time() + date, usegmt=True))]
    budget = RequestBudget(5)
    get(connect(), budget)
    assert budget.clock_skew_ms is not None
    assert abs(budget.clock_skew_ms - skew) <= 700


@pytest.mark.parametrize("date", ["", "nonsense", "0", "Mon, 99 Foo 99999", "1\xff", "9" * 5000])
def test_bad_dates_are_ignored(
    exchange: "Exchange", connect: "Connect", answering: "Answering", date: str
) -> None:
    exchange.answers = [answering(b"", Date=date)]
    budget = RequestBudget(5)
    get(connect(), budget)
    assert budget.clock_skew_ms is None


def test_each_retried_attempt_is_one_log_record(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    exchange.answers = [
        answering({"code": "c", "message": "m", "details": "d", "service": "s"}, 503)
    ]
    final = failure(connect(max_attempts=2))
    # The caller logs the last failure, because only it knows the consequences.
    (record,) = [record for record in caplog.records if record.name == "exporter.kalshi.retry"]
    assert record.levelno == logging.WARNING
    fields = vars(record)
    expected = {
        "event": "attempt_failed",
        "account": "main",
        "attempt": 1,
        "http_status": HTTPStatus.SERVICE_UNAVAILABLE,
        "code": "c",
        "error": "m",
        "details": "d",
        "service": "s",
        "outcome": "server_error",
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields["next"].startswith("retry in")
    # The message does not repeat the fields.
    assert record.getMessage() == final.summary == "the exchange responded 503 Service Unavailable"
    assert final.reason == f"{final.summary}: c; m; d"


def test_no_log_record_holds_a_key_id_or_signature(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")
    exchange.answers = [answering(status=500), answering(status=401)]
    failure(connect())
    assert caplog.records
    for request in exchange.requests:
        assert request.headers["KALSHI-ACCESS-SIGNATURE"] not in caplog.text
        assert request.headers["KALSHI-ACCESS-KEY"] not in caplog.text


def test_a_refused_connection_is_unreachable(connect: "Connect") -> None:
    budget = RequestBudget(5)
    error = failure(connect(base_url="http://127.0.0.1:1/trade-api/v2"), budget)
    assert isinstance(error, UnreachableError)
    assert "127.0.0.1:1: ConnectionRefusedError: Connection refused" in error.reason
    assert (budget.attempts, budget.http_status) == (4, None)


def test_tls_is_verified_and_a_private_authority_can_be_configured(
    exchange_over_tls: "Exchange",
    connect: "Connect",
    answering: "Answering",
    keys: "Keys",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange_over_tls.answers = [answering(b"body"), answering(b"x" * 200_000, compress=True)]
    url = exchange_over_tls.base_url
    error = failure(connect(base_url=url))
    assert isinstance(error, UnreachableError)
    assert "SSL_CERT_FILE" in error.reason
    assert not exchange_over_tls.requests
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        exchange_over_tls.requests.clear()
        exchange_over_tls.connections = 0
        monkeypatch.setenv(name, str(keys.directory / "certificate.pem"))
        session = connect(base_url=url)
        assert get(session) == b"body"
        assert get(session) == b"x" * 200_000
        assert exchange_over_tls.connections == 1
        monkeypatch.delenv(name)


def test_a_missing_authority_is_a_configuration_error(
    connect: "Connect", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE names /nowhere/ca"):
        connect()


def test_plain_http_to_a_tls_port_is_unreachable(
    exchange_over_tls: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange_over_tls.answers = [answering(b"body")]
    url = exchange_over_tls.base_url
    assert isinstance(
        failure(connect(base_url=url.replace("https", "http"), max_attempts=1)), UnreachableError
    )


def test_tls_to_a_plain_port_is_unreachable(connect: "Connect") -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/trade-api/v2"
        error = failure(connect(base_url=url, max_attempts=1))
        thread.join()
    assert isinstance(error, UnreachableError)
    assert "SSLError" in error.reason


def test_an_invalid_authority_is_named(
    exchange_over_tls: "Exchange",
    connect: "Connect",
    keys: "Keys",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = keys.write("junk.pem", b"junk")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    error = failure(connect(base_url=exchange_over_tls.base_url, max_attempts=1))
    assert isinstance(error, UnreachableError)
    assert f"certificates are judged by {path}" in error.reason


def closed_while_idle(connection: socket.socket, *, reset: bool) -> None:
    """Close as a load balancer that has dropped the connection: only a request reveals it."""
    if reset:
        # Closing with a linger of zero sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_closed_while_idle_costs_no_attempt(
    exchange: "Exchange", connect: "Connect", answering: "Answering", reset: bool
) -> None:
    # The peer reads the second request of a connection and closes instead of responding.
    exchange.answers = [
        answering(b"1"),
        lambda connection: closed_while_idle(connection, reset=reset),
        answering(b"2"),
    ]
    session = connect(max_attempts=1)
    budget = RequestBudget(5)
    assert session.get("/portfolio/order_groups", {}, budget, MEBIBYTE) == b"1"
    assert session.get("/portfolio/order_groups", {}, budget, MEBIBYTE) == b"2"
    assert budget.attempts == 2
    assert exchange.connections == 2
    first, second, third = (each.headers["KALSHI-ACCESS-SIGNATURE"] for each in exchange.requests)
    assert len({first, second, third}) == 3


def test_a_new_connection_that_is_closed_costs_its_attempt(
    exchange: "Exchange", connect: "Connect"
) -> None:
    exchange.answers = [lambda connection: closed_while_idle(connection, reset=False)]
    budget = RequestBudget(5)
    assert failure(connect(max_attempts=2), budget).outcome == "unreachable"
    assert budget.attempts == len(exchange.requests) == 2


def test_a_response_that_breaks_off_on_a_kept_connection_costs_its_attempt(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        connection.close()

    exchange.answers = [answering(b"1"), break_off, answering(b"2")]
    session = connect(max_attempts=1)
    session.get("/portfolio/order_groups", {}, RequestBudget(5), MEBIBYTE)
    budget = RequestBudget(5)
    assert failure(session, budget).outcome == "unreachable"
    assert budget.attempts == 1
    assert len(exchange.requests) == 2
