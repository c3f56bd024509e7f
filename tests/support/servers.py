"""Keys as real PEM files, and an exchange on a real socket that sends scripted responses."""

import contextlib
import gzip
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from exporter.kalshi.keys import load_private_key
from exporter.kalshi.session import SignedSession
from tests.support.certificates import self_signed
from tests.support.keys import pem

PASSPHRASE = b"correct horse"

Answer = bytes | Callable[[socket.socket], None]


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """The target without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query, decoded."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


class Exchange:
    """A server that gives each request the next of its `answers`, and repeats the last one.

    An answer is the bytes to send, or a function that takes over the connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """The server's address, as in a configuration's `base_url`."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/trade-api/v2"

    def close(self) -> None:
        """Close every connection, and accept no more."""
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.ExitStack() as threads:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
                thread.start()
                threads.callback(thread.join, 5)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            while head := _read_head(connection):
                self.requests.append(head)
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer)


def _read_head(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        block = connection.recv(65536)
        if not block:
            return None
        data += block
    first, *lines = data.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    method, target, _ = first.split(" ")
    return Request(method, target, dict(line.split(": ", 1) for line in lines))


def answer(
    body: object = b"", status: int = 200, *, compress: bool = False, **headers: str
) -> bytes:
    """Return a whole HTTP response.

    Args:
        body: sent as it is if it is bytes, else as JSON.
        status: the HTTP status.
        compress: whether to compress the body with gzip.
        headers: further headers; `Retry_After=` becomes `Retry-After`.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if compress:
        data = gzip.compress(data)
        headers["Content_Encoding"] = "gzip"
    headers = {"Content_Length": str(len(data)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode("latin-1") + data


def drip(beginning: bytes, piece: bytes, pause: float) -> Callable[[socket.socket], None]:
    """Return an answer that sends the beginning, then a piece again and again.

    It ends when the client closes the connection.

    Args:
        beginning: sent first.
        piece: sent repeatedly.
        pause: seconds after each piece.
    """

    def send(connection: socket.socket) -> None:
        connection.sendall(beginning)
        for _ in itertools.count():
            connection.sendall(piece)
            if pause:
                threading.Event().wait(pause)

    return send


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Yield an exchange without TLS."""
    server = Exchange()
    yield server
    server.close()


@dataclass(frozen=True)
class Keys:
    """PEM files, all with mode 600, and some of the keys in them."""

    directory: Path
    rsa: Path
    rsa_private: RSAPrivateKey
    ed25519_private: Ed25519PrivateKey

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        """Write another file beside the keys, and return its path."""
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        return path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    rsa_private = rsa.generate_private_key(65537, 2048)
    ed25519_private = Ed25519PrivateKey.generate()
    made = Keys(directory, directory / "rsa.pem", rsa_private, ed25519_private)
    made.write("rsa.pem", pem(rsa_private))
    made.write("rsa-pkcs1.pem", pem(rsa_private, traditional=True))
    made.write("rsa-locked.pem", pem(rsa_private, PASSPHRASE))
    made.write("rsa-pkcs1-locked.pem", pem(rsa_private, PASSPHRASE, traditional=True))
    made.write("ed25519.pem", pem(ed25519_private))
    made.write("ed25519-locked.pem", pem(ed25519_private, PASSPHRASE))
    made.write("ec.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    made.write("dsa.pem", pem(dsa.generate_private_key(1024)))
    made.write("small.pem", pem(rsa.generate_private_key(65537, 1024)))
    made.write(
        "public.pem",
        rsa_private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    made.write(
        "openssh.pem",
        rsa_private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    certificate = self_signed(rsa_private)
    made.write("certificate.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return made


Connect = Callable[..., SignedSession]


@pytest.fixture
def connect(
    exchange: Exchange, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SignedSession]]:
    """Yield a function that makes sessions with the exchange.

    Retries wait only briefly, unless the exchange asks for a longer wait.
    """
    monkeypatch.setattr("exporter.kalshi.retry._FIRST_WAIT", 0.01)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as sessions:

        def make(**changes: Any) -> SignedSession:
            values: dict[str, Any] = {
                "account": "main",
                "base_url": exchange.base_url,
                "key_id": "0d1e2f3a-1111-2222-3333-44445555abcd",
                "key": load_private_key(keys.rsa),
                "max_attempts": 4,
                "max_response_size": 1024 * 1024,
            }
            return sessions.enter_context(SignedSession(**(values | changes)))

        yield make


@pytest.fixture
def exchange_over_tls(keys: Keys) -> Iterator[Exchange]:
    """Yield an exchange with a self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.directory / "certificate.pem", keys.rsa)
    server = Exchange(context)
    yield server
    server.close()


class Answering(Protocol):
    """The type of `answer`."""

    def __call__(
        self, body: object = b"", status: int = 200, *, compress: bool = False, **headers: str
    ) -> bytes:
        """Return a whole HTTP response."""


@pytest.fixture
def answering() -> Answering:
    """Return the function that builds a whole HTTP response."""
    return answer


# The type of `drip`.
Dripping = Callable[[bytes, bytes, float], Callable[[socket.socket], None]]


@pytest.fixture
def dripping() -> Dripping:
    """Return the function that builds a response without an end."""
    return drip
