"""Requests stay within their deadline and their memory, whatever the server sends."""

import gzip
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import ApiError, DeadlineError, InvalidResponseError, UnreachableError
from exporter.kalshi.budget import RequestBudget
from exporter.logs import setup

if TYPE_CHECKING:
    from tests.support.servers import Answering, Connect, Dripping, Exchange

PATH = "/portfolio/order_groups"
MEBIBYTE = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def failure(connect: "Connect", deadline: float = 5, **changes: Any) -> ApiError:
    """Return the error of a request, by default of one attempt."""
    values: dict[str, Any] = {"max_attempts": 1} | changes
    with pytest.raises(ApiError) as caught:
        connect(**values).get(PATH, {}, RequestBudget(deadline), MEBIBYTE)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 500
    return caught.value


def body(connect: "Connect") -> bytes:
    """Return the body of the response to one attempt."""
    return connect(max_attempts=1).get(PATH, {}, RequestBudget(5), MEBIBYTE)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"", b"H"),
        (OK, b"X"),
        (OK, b"X: y\r\n"),
        (OK + b"Content-Length: 1000\r\n\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
)
def test_a_slow_response_ends_with_the_deadline(
    exchange: "Exchange", connect: "Connect", dripping: "Dripping", beginning: bytes, piece: bytes
) -> None:
    exchange.answers = [dripping(beginning, piece, 0.05)]
    began = time.monotonic()
    error = failure(connect, deadline=0.5, max_attempts=4)
    assert isinstance(error, DeadlineError)
    assert 0.4 < time.monotonic() - began < 1
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(
    ("beginning", "piece", "kinds"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, UnreachableError),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, UnreachableError),
        (b"", b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 1000, UnreachableError),
        (b"", b"H" * 65536, UnreachableError),
        (OK, b"X: y\r\n" * 1000, UnreachableError),
        (OK, b"x" * 65536, UnreachableError),
        (CHUNKED, b"0" * 65536, UnreachableError),
        (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n", InvalidResponseError),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 1000, (UnreachableError, InvalidResponseError)),
        (CHUNKED, b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n", InvalidResponseError),
        (OK + b"\r\n", b"x" * 65536, InvalidResponseError),
    ],
)
def test_an_endless_response_is_cut_off(
    *,
    exchange: "Exchange",
    connect: "Connect",
    dripping: "Dripping",
    beginning: bytes,
    piece: bytes,
    kinds: type[ApiError] | tuple[type[ApiError], ...],
) -> None:
    exchange.answers = [dripping(beginning, piece, 0)]
    assert isinstance(failure(connect, 30), kinds)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1",
        b"garbage\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        OK + b"Content-Length: 10\r\n\r\nabc",
        OK + b"Content-Length: 10, 20\r\n\r\nabc",
        OK
        + b"Content-Length: 99\r\nContent-Encoding: gzip\r\n\r\n"
        + gzip.compress(b"body", mtime=0),
        OK + b"\r\n",
        CHUNKED,
        CHUNKED + b"5\r\nab",
        CHUNKED + b"5\r\nabcde\r\n",
        CHUNKED + b"zz\r\nabcde\r\n",
        CHUNKED + b"-5\r\nabcde\r\n",
        CHUNKED + b"9" * 100 + b"\r\nabc",
    ],
)
def test_a_broken_transfer_is_retried(
    exchange: "Exchange", connect: "Connect", answering: "Answering", sent: bytes
) -> None:
    exchange.answers = [lambda connection: connection.sendall(sent), answering(b"body")]
    error = failure(connect)
    assert isinstance(error, UnreachableError), error
    exchange.requests.clear()
    assert connect(max_attempts=2).get(PATH, {}, RequestBudget(5), MEBIBYTE) == b"body"


def test_malformed_headers_do_no_harm(
    exchange: "Exchange", connect: "Connect", caplog: pytest.LogCaptureFixture
) -> None:
    setup.configure("INFO", "text", io.StringIO())
    broken = OK + b"\x00\xff: \xfe\r\n  folded\r\nno colon\r\nContent-Length: 4\r\n\r\nbody"
    exchange.answers = [lambda connection: connection.sendall(broken)]
    assert body(connect) == b"body"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("deflate", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("chunked", [False, True])
def test_complete_responses_are_read_and_keep_the_connection(
    exchange: "Exchange", connect: "Connect", deflate: Callable[[bytes], bytes], chunked: bool
) -> None:
    expected = os.urandom(300_000) + bytes(300_000)
    data = deflate(expected)
    encoding = b"Content-Encoding: gzip\r\n" if data != expected else b""
    if chunked:
        pieces = [data[start : start + 7001] for start in range(0, len(data), 7001)]
        framed = b"".join(b"%x;q=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        sent = OK + encoding + b"Transfer-Encoding: chunked\r\n\r\n" + framed
        sent += b"0\r\nTrailer: x\r\n\r\n"
    else:
        sent = OK + encoding + b"Content-Length: %d\r\n\r\n" % len(data) + data
    exchange.answers = [sent]
    session = connect()
    for _ in range(3):
        assert session.get(PATH, {}, RequestBudget(5), MEBIBYTE) == expected
    assert exchange.connections == 1


def test_interim_responses_are_no_responses(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    interim = b"HTTP/1.1 %d Interim\r\nLink: x\r\n\r\n"
    exchange.answers = [
        b"".join(interim % status for status in (100, 103, 102, 100)) + answering(b"first"),
        answering(b"second"),
    ]
    session = connect(max_attempts=1)
    for expected in (b"first", b"second"):
        assert session.get(PATH, {}, RequestBudget(5), MEBIBYTE) == expected
    assert exchange.connections == 1


def test_a_response_may_end_with_the_connection(exchange: "Exchange", connect: "Connect") -> None:
    exchange.answers = [lambda connection: connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nbody")]
    session = connect()
    for _ in range(2):
        assert session.get(PATH, {}, RequestBudget(5), MEBIBYTE) == b"body"
    assert exchange.connections == 2


def test_a_connection_closed_while_idle_is_opened_again(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [lambda connection: connection.sendall(answering(b"body"))]
    session = connect(max_attempts=1)
    for _ in range(2):
        assert session.get(PATH, {}, RequestBudget(5), MEBIBYTE) == b"body"
        time.sleep(0.1)
    assert exchange.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"body", mtime=0)[:-1],
        gzip.compress(b"body", mtime=0)[:10],
        gzip.compress(b"body", mtime=0) + b"trailing garbage",
        gzip.compress(b"body", mtime=0)[:-8] + bytes(8),
        zlib.compress(b"body"),
        b"body",
    ],
)
def test_broken_gzip_is_an_invalid_response(
    exchange: "Exchange", connect: "Connect", answering: "Answering", data: bytes
) -> None:
    exchange.answers = [answering(data, Content_Encoding="gzip")]
    assert isinstance(failure(connect, max_attempts=4), InvalidResponseError)
    assert len(exchange.requests) == 1


def test_gzip_with_several_members_is_read(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    data = gzip.compress(b"bo") + gzip.compress(b"dy")
    exchange.answers = [answering(data, Content_Encoding="gzip")]
    assert body(connect) == b"body"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd", "\xff"])
def test_an_unrequested_encoding_is_an_invalid_response(
    exchange: "Exchange", connect: "Connect", answering: "Answering", encoding: str
) -> None:
    exchange.answers = [answering(b"body", Content_Encoding=encoding)]
    assert isinstance(failure(connect), InvalidResponseError)


def test_a_gzip_bomb_takes_neither_memory_nor_time(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering(bytes(200 * MEBIBYTE), compress=True)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    began = time.monotonic()
    error = failure(connect)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(error, InvalidResponseError)
    assert "max_response_size" in error.reason
    assert time.monotonic() - began < 2
    assert peak - before < 8 * MEBIBYTE


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("more", [0, 1])
def test_the_size_limit_is_exact(
    exchange: "Exchange", connect: "Connect", answering: "Answering", compress: bool, more: int
) -> None:
    exchange.answers = [answering(bytes(MEBIBYTE + more), compress=compress)]
    if more:
        assert isinstance(failure(connect), InvalidResponseError)
    else:
        assert len(body(connect)) == MEBIBYTE


def test_a_name_lookup_that_hangs_ends_with_the_deadline(
    connect: "Connect", monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **keywords: Any) -> Any:
        if "flags" not in keywords:
            release.wait(10)
        return real(host, port, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    error = failure(connect, 0.3, base_url="http://localhost:1/trade-api/v2")
    release.set()
    assert isinstance(error, DeadlineError)
    assert time.monotonic() - began < 1


def test_an_unknown_host_is_named(connect: "Connect", monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = failure(connect, base_url="http://nowhere.invalid/trade-api/v2")
    assert isinstance(error, UnreachableError)
    assert "nowhere.invalid: gaierror: Name or service not known" in error.reason


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    exchange: "Exchange",
    connect: "Connect",
    answering: "Answering",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange.answers = [answering(b"body")]
    good = socket.getaddrinfo("127.0.0.1", int(exchange.base_url.split(":")[2].split("/")[0]))[0]
    # A listener whose backlog is full neither accepts nor refuses further connections.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(3):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(full.getsockname())
        waiting.append(client)
    addresses = [(*good[:4], full.getsockname()), good]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    session = connect(max_attempts=1)
    began = time.monotonic()
    assert session.get(PATH, {}, RequestBudget(1), MEBIBYTE) == b"body"
    assert 0.4 < time.monotonic() - began < 0.9
    for client in [*waiting, full]:
        client.close()


def test_the_headers_and_the_body_share_one_deadline(
    exchange: "Exchange", connect: "Connect", dripping: "Dripping"
) -> None:
    # The server waits for half the deadline before the header, and then sends a body that would
    # take longer than the whole deadline.
    drip_body = dripping(OK + b"Content-Length: 20\r\n\r\n", b"x", 0.05)

    def late(connection: socket.socket) -> None:
        time.sleep(0.4)
        drip_body(connection)

    exchange.answers = [late]
    began = time.monotonic()
    assert isinstance(failure(connect, 0.8), DeadlineError)
    assert time.monotonic() - began < 1.3


def test_an_ipv6_address_works(connect: "Connect", answering: "Answering") -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answering(b"body"))

    thread = threading.Thread(target=serve)
    thread.start()
    session = connect(base_url=f"http://[::1]:{listener.getsockname()[1]}/trade-api/v2")
    assert session.get(PATH, {}, RequestBudget(5), MEBIBYTE) == b"body"
    thread.join()
    listener.close()


def test_a_tls_handshake_that_hangs_ends_with_the_deadline(
    exchange: "Exchange", connect: "Connect"
) -> None:
    # An exchange without TLS takes the handshake for a header, and waits for its end.
    exchange.answers = [b""]
    began = time.monotonic()
    error = failure(connect, 0.4, base_url=exchange.base_url.replace("http", "https"))
    assert isinstance(error, DeadlineError)
    assert time.monotonic() - began < 1


PROGRAM = """
import sys
from pathlib import Path
from exporter.errors import ApiError
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.keys import load_private_key
from exporter.kalshi.session import SignedSession
with SignedSession(account="main", base_url=sys.argv[1], key_id="k", max_attempts=4,
        key=load_private_key(Path(sys.argv[2])), max_response_size=1000) as session:
    budget = RequestBudget(2)
    try:
        print(session.get("/x", {}, budget, 1000))
    except ApiError as error:
        print(error.outcome)
"""


def test_a_paused_process_refuses_a_response_after_the_deadline(
    exchange: "Exchange", answering: "Answering", keys: Any
) -> None:
    asked, paused = threading.Event(), threading.Event()

    def reply(connection: socket.socket) -> None:
        asked.set()
        paused.wait(5)
        connection.sendall(answering(b"body"))

    exchange.answers = [reply]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, exchange.base_url, str(keys.rsa)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert asked.wait(5)
        process.send_signal(signal.SIGSTOP)
        paused.set()
        time.sleep(2.1)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=5)
    assert output == "timeout\n"
