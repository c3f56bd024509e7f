"""A local exchange over real sockets that verifies every request, for the demo and the tests.

It imports nothing of the package, so that it stays an independent judge of what the exporter sends;
`market.py` makes things happen on it.
"""

import base64
import gzip
import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

BASE_PATH = "/trade-api/v2"
ENDPOINT = BASE_PATH + "/portfolio/order_groups"
CLOCK_TOLERANCE = 20.0
"""Seconds a request's clock may be off: the live service lets 10 pass and refuses 30."""
HIGHEST_SUBACCOUNT = 32

PublicKey: TypeAlias = rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_REMEMBERED = 10_000
"""How many requests and signatures are kept, so that a demo left running does not grow."""
# Go's encoder escapes these inside strings; outside of strings JSON has none of them.
_GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the exchange saw it.

    Attributes:
        received_at: seconds since the epoch, by this machine's clock.
        key_id: as sent, known or not; None if missing.
        path: without the query.
        query: the last value of each parameter.
        headers: names in lower case.
        status: of the answer; None if none was sent.
    """

    received_at: float
    key_id: str | None
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the exchange says to one request, and how it says it.

    Attributes:
        status, body: as sent.
        headers: beside or instead of the usual ones; an empty value leaves a usual one out.
        delay: seconds of silence before the first byte.
        head_pace, pace: seconds before each byte of the head and of the body; 0 sends it at once.
        ending: "complete"; "truncated" closes after half of the body; "closed" closes, and "reset"
            resets, the connection without a byte of an answer.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    head_pace: float = 0.0
    pace: float = 0.0
    ending: Literal["complete", "truncated", "closed", "reset"] = "complete"

    @classmethod
    def json(cls, value: object, *, status: int = 200) -> Self:
        """Any value, encoded as the live service would."""
        return cls(status=status, body=encode(value) + b"\n")

    @classmethod
    def error(
        cls, status: int, code: str, message: str, details: str = "", service: str = ""
    ) -> Self:
        """An error in the shape that the endpoint's documentation gives."""
        named = {"code": code, "message": message, "details": details, "service": service}
        return cls.json({name: text for name, text in named.items() if text}, status=status)

    @classmethod
    def unauthorized(
        cls, code: str = "authentication_error", details: str = "INCORRECT_API_KEY_SIGNATURE"
    ) -> Self:
        """A 401 in the nested shape that the live service gives."""
        error = {"code": code, "message": code.replace("_", " ")}
        return cls.json({"error": error | ({"details": details} if details else {})}, status=401)

    @classmethod
    def rate_limited(cls, retry_after: str | None = None) -> Self:
        """A 429, by default without Retry-After, as documented."""
        return cls(
            status=429,
            body=encode({"error": "too many requests"}) + b"\n",
            headers={} if retry_after is None else {"Retry-After": retry_after},
        )

    @classmethod
    def server_error(cls, status: int = 500) -> Self:
        """A 5xx from the exchange itself."""
        return cls.error(status, "internal_server_error", "internal server error")

    @classmethod
    def proxy_error(cls, status: int = 503) -> Self:
        """A 5xx from the proxy in front of the exchange: HTML, whatever the client accepts."""
        title = f"{status} {HTTPStatus(status).phrase}"
        page = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>{title}</body>\r\n</html>\r\n"
        )
        return cls(status=status, body=page.encode(), headers={"Content-Type": "text/html"})

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Self:
        """An order to ask elsewhere."""
        return cls(status=status, headers={"Location": location})

    @classmethod
    def gzipped(cls, body: bytes) -> Self:
        """A body under gzip, whether or not the client asked for it."""
        return cls(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})

    @classmethod
    def hang(cls, seconds: float) -> Self:
        """Silence, then the end of the connection."""
        return cls(delay=seconds, ending="closed")


Script: TypeAlias = Answer | Callable[[Request], Answer] | None
"""An answer, something that makes one when the request comes, or None for the true answer."""


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8, as Go's encoder writes it, without the newline that ends an answer."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()


class Groups:
    """The order groups that one key sees, in the order of their creation; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[str, tuple[int, dict[str, Any]]] = {}
        # Each group's JSON is kept, so that after a change among 100,000 only one is encoded again.
        self._encoded: dict[str, bytes] = {}
        self._bodies: dict[tuple[object, ...], bytes] = {}

    def create(
        self,
        group_id: str,
        *,
        is_auto_cancel_enabled: bool = True,
        contracts_limit: str | None = "10.00",
        subaccount: int = 0,
        **others: Any,
    ) -> None:
        """Add a group at the end of the list.

        Args:
            group_id: unique over all subaccounts.
            is_auto_cancel_enabled: as sent.
            subaccount: which has it; the answer does not say.
            contracts_limit: sent as `contracts_limit_fp`, two decimals; None leaves it out.
            others: further fields, sent as they are.

        Raises:
            KeyError: there is such a group already.
        """
        group = {"id": group_id, "is_auto_cancel_enabled": is_auto_cancel_enabled}
        if contracts_limit is not None:
            group["contracts_limit_fp"] = contracts_limit
        with self._lock:
            if group_id in self._groups:
                raise KeyError(group_id)
            self._put(subaccount, group | {"exchange_index": 0} | others)

    def change(self, group_id: str, **fields: Any) -> None:
        """Set fields of a group by the names they have in the answer; None takes a field away."""
        with self._lock:
            subaccount, group = self._groups[group_id]
            changed = group | fields
            self._put(
                subaccount, {name: value for name, value in changed.items() if value is not None}
            )

    def delete(self, group_id: str) -> None:
        """Remove a group; KeyError if there is none."""
        with self._lock:
            del self._groups[group_id]
            del self._encoded[group_id]
            self._bodies.clear()

    def replace(self, groups: Iterable[Mapping[str, Any]], *, subaccount: int = 0) -> None:
        """Let a subaccount have exactly these groups, each as it stands in the answer."""
        with self._lock:
            for group_id in [own for own, (of, _) in self._groups.items() if of == subaccount]:
                del self._groups[group_id]
                del self._encoded[group_id]
            for group in groups:
                self._put(subaccount, dict(group))
            self._bodies.clear()

    def listing(self, subaccount: int | None = None) -> list[dict[str, Any]]:
        """The groups of one subaccount, or of all, each as it stands in the answer."""
        with self._lock:
            return [dict(group) for of, group in self._groups.values() if subaccount in {None, of}]

    def body(
        self,
        subaccount: int | None = None,
        *,
        without: str | None = None,
        start: int = 0,
        page_size: int | None = None,
        compressed: bool = False,
    ) -> bytes:
        """The answer's bytes; kept until a group changes.

        Args:
            subaccount: None for all of them.
            without: the id of a group to leave out.
            start: where in the list the page begins.
            page_size: of the page, which then has a cursor; None for the rest of the list.
            compressed: under gzip.
        """
        view = (subaccount, without, start, page_size, compressed)
        with self._lock:
            if view not in self._bodies:
                selected = [
                    self._encoded[group_id]
                    for group_id, (of, _) in self._groups.items()
                    if subaccount in {None, of} and group_id != without
                ]
                body = _assemble(selected, start, page_size)
                # Level 1: what a service under load takes.
                self._bodies[view] = gzip.compress(body, 1) if compressed else body
            return self._bodies[view]

    def _put(self, subaccount: int, group: dict[str, Any]) -> None:
        self._groups[group["id"]] = (subaccount, group)
        self._encoded[group["id"]] = encode(group)
        self._bodies.clear()


def _assemble(groups: list[bytes], start: int, page_size: int | None) -> bytes:
    if page_size is None:
        # Go leaves an empty list out.
        return b'{"order_groups":[' + b",".join(groups) + b"]}\n" if groups else b"{}\n"
    end = start + page_size
    cursor = encode(_cursor_at(end) if end < len(groups) else "")
    page = b",".join(islice(groups, start, end))
    return b'{"order_groups":[' + page + b'],"cursor":' + cursor + b"}\n"


def _cursor_at(start: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{start}".encode()).decode()


class Exchange:
    """The exchange, serving on a loopback port for as long as its context lasts.

    Attributes:
        base_url: with `/trade-api/v2`.
        page_size: groups per answer; None gives all in one, as the live service does. This one
            and the next two may be set at any time.
        compress: whether to answer under gzip to clients that accept it.
        clock_offset: seconds that the exchange's clock is ahead of this machine's.
        closing: set once the context ends, to wake answers that take their time.
    """

    def __init__(self) -> None:
        self.page_size: int | None = None
        self.compress = False
        self.clock_offset = 0.0
        self.closing = threading.Event()
        self._keys: dict[str, PublicKey] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}
        self._accounts: defaultdict[str, Groups] = defaultdict(Groups)
        self._scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._seen_signatures: dict[str, None] = {}  # in the order of arrival
        self._requests: deque[Request] = deque(maxlen=_REMEMBERED)
        self._request_count = 0
        self._changed = threading.Condition()
        self._server = _Server(self)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}{BASE_PATH}"
        self._thread = threading.Thread(
            # The interval bounds how long leaving the context takes.
            target=self._server.serve_forever,
            args=(0.02,),
            name="exchange",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def register(
        self, key_id: str, public_key: PublicKey, *, scopes: tuple[str, ...] = ("read",)
    ) -> None:
        """Accept requests that are signed by this key, if its scopes allow them."""
        self._keys[key_id] = public_key
        self._scopes[key_id] = scopes

    def groups(self, key_id: str) -> Groups:
        """The groups that this key sees, to look at and to change."""
        with self._changed:
            return self._accounts[key_id]

    def script(self, key_id: str, *answers: Script) -> None:
        """Give the next requests of this key these answers, one each, after those scripted before.

        A request whose signature does not hold is refused all the same, and uses none of them up.
        """
        with self._changed:
            self._scripts[key_id].extend(answers)

    def scripted(self, key_id: str) -> int:
        """How many scripted answers of this key still wait for a request."""
        with self._changed:
            return len(self._scripts[key_id])

    @property
    def requests(self) -> list[Request]:
        """The latest requests, oldest first, at most 10,000; each is here before its answer is."""
        with self._changed:
            return list(self._requests)

    def wait_for_requests(self, count: int, *, seconds: float = 10.0) -> None:
        """Return once this many requests have come in all; TimeoutError if they do not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._request_count >= count, seconds):
                raise TimeoutError(f"{self._request_count} requests in {seconds} s, not {count}")

    def drop_connections(self) -> None:
        """Close every open connection without a word, as a proxy does with idle ones."""
        self._server.drop_connections()

    def now(self) -> float:
        """Seconds since the epoch, by the exchange's clock."""
        return time.time() + self.clock_offset

    def answer(self, method: str, request: Request) -> Answer:
        """Judge a request, answer it and remember it."""
        answer = self._judge(method, request)
        status = None if answer.ending in {"closed", "reset"} else answer.status
        with self._changed:
            self._requests.append(replace(request, status=status))
            self._request_count += 1
            self._changed.notify_all()
        return answer

    def _judge(self, method: str, request: Request) -> Answer:
        if request.path != ENDPOINT:
            return Answer.error(404, "not_found", "not found")
        refusal = self._refusal(method, request)
        if refusal is not None:
            return refusal
        assert request.key_id is not None  # noqa: S101 - _refusal saw to it; this is for mypy
        if "read" not in self._scopes[request.key_id]:
            # The live service has such keys; what it says to them is not documented.
            return Answer.error(403, "insufficient_scope", "the key has no scope for this")
        with self._changed:
            script = self._scripts[request.key_id]
            scripted = script.popleft() if script else None
        if scripted is None:
            return self._true_answer(self.groups(request.key_id), request)
        return scripted if isinstance(scripted, Answer) else scripted(request)

    def _refusal(self, method: str, request: Request) -> Answer | None:
        """The reason not to serve a request, or None."""
        timestamp = request.headers.get("kalshi-access-timestamp")
        signature = request.headers.get("kalshi-access-signature")
        if request.key_id is None:
            return Answer.unauthorized("token_authentication_failure", "")
        if signature is None:
            return Answer.unauthorized("signature_is_missing_from_headers", "")
        if timestamp is None or not (timestamp.isascii() and timestamp.isdigit()):
            return Answer.unauthorized("header_timestamp_invalid", "")
        if abs(self.now() - int(timestamp) / 1000) > CLOCK_TOLERANCE:
            return Answer.unauthorized("header_timestamp_expired", "")
        message = f"{timestamp}{method}{request.path}".encode()
        details = self._fault_of_signature(request.key_id, signature, message)
        return Answer.unauthorized(details=details) if details else None

    def _fault_of_signature(self, key_id: str, signature: str, message: bytes) -> str | None:
        key = self._keys.get(key_id)
        if key is None:
            return "NOT_FOUND"
        if not _verifies(key, signature, message):
            return "INCORRECT_API_KEY_SIGNATURE"
        # Stricter than the live service, to prove that each attempt is signed afresh. Ed25519 is
        # let off: it signs the same millisecond alike each time, and loopback is that fast.
        if isinstance(key, rsa.RSAPublicKey):
            with self._changed:
                if signature in self._seen_signatures:
                    return "SIGNATURE_SEEN_BEFORE"
                self._seen_signatures[signature] = None
                if len(self._seen_signatures) > _REMEMBERED:
                    del self._seen_signatures[next(iter(self._seen_signatures))]
        return None

    def _true_answer(self, groups: Groups, request: Request) -> Answer:
        subaccount, start = None, 0
        if "subaccount" in request.query:
            text = request.query["subaccount"]
            if not (text.isascii() and text.isdigit() and int(text) <= HIGHEST_SUBACCOUNT):
                return Answer.error(400, "invalid_parameters", "invalid parameters", "subaccount")
            subaccount = int(text)
        if request.query.get("cursor"):
            try:
                cursor = base64.urlsafe_b64decode(request.query["cursor"])
                start = int(cursor.removeprefix(b"offset:"))
            except ValueError:
                return Answer.error(400, "invalid_parameters", "invalid parameters", "cursor")
        compressed = self.compress and "gzip" in request.headers.get("accept-encoding", "")
        body = groups.body(subaccount, start=start, page_size=self.page_size, compressed=compressed)
        return Answer(body=body, headers={"Content-Encoding": "gzip"} if compressed else {})


def _verifies(key: PublicKey, signature: str, message: bytes) -> bool:
    try:
        decoded = base64.b64decode(signature, validate=True)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(decoded, message)
        else:
            key.verify(
                decoded,
                message,
                padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH),
                hashes.SHA256(),
            )
    except (ValueError, InvalidSignature):
        return False
    return True


class _Server(HTTPServer):
    """One daemon thread per connection; closing the server ends and joins them all."""

    request_queue_size = 128

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._connections: list[tuple[socket.socket, threading.Thread]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the address, which can take seconds."""
        super(HTTPServer, self).server_bind()
        self.server_port = self.server_address[1]

    # ThreadingMixIn has either daemon threads, which it does not join, or threads that keep a
    # crashed process alive.
    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="connection", daemon=True
        )
        alive = [pair for pair in self._connections if pair[1].is_alive()]
        self._connections = [*alive, (request, thread)]
        thread.start()

    def drop_connections(self) -> None:
        """End every connection; their threads then find nothing more to read."""
        for connection, _ in self._connections:
            with suppress(OSError):  # closed in the meantime
                connection.shutdown(socket.SHUT_RDWR)

    def server_close(self) -> None:
        """Stop listening, end every connection and wait for its thread."""
        super().server_close()
        self.drop_connections()
        for _, thread in self._connections:
            thread.join()

    def _serve(self, connection: socket.socket, client_address: object) -> None:
        try:
            # A client with a deadline goes away in the middle of an answer: no error of ours.
            with suppress(ConnectionError):
                self.finish_request(connection, client_address)
        finally:
            # No shutdown before it: that would say goodbye where the answer was to be a reset.
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends what the exchange answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer one request."""
        exchange = self.server.exchange
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            received_at=time.time(),
            key_id=headers.get("kalshi-access-key"),
            path=url.path,
            query={name: values[-1] for name, values in parse_qs(url.query).items()},
            headers=headers,
        )
        self._send(exchange.answer("GET", request))

    def log_message(self, *_: object) -> None:
        """Stay silent: `Exchange.requests` tells what happened."""

    def _send(self, answer: Answer) -> None:
        exchange = self.server.exchange
        if exchange.closing.wait(answer.delay) or answer.ending in {"closed", "reset"}:
            self.close_connection = True
            if answer.ending == "reset":
                # Closing with a linger time of zero sends a reset instead of an orderly end.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        headers = {
            "Date": formatdate(exchange.now(), usegmt=True),
            "Content-Type": "application/json",
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        head = f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('',))[0]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        body = answer.body
        if answer.ending == "truncated":
            body = body[: len(body) // 2]
        if answer.ending == "truncated" or headers.get("Connection") == "close":
            self.close_connection = True
        pieces = ((f"{head}\r\n".encode("latin-1"), answer.head_pace), (body, answer.pace))
        if answer.head_pace or answer.pace:
            for data, pace in pieces:
                self._drip(data, pace)
        else:
            self.wfile.write(b"".join(data for data, _ in pieces))

    def _drip(self, data: bytes, pace: float) -> None:
        size = 1 if pace else len(data)
        for start in range(0, len(data), size or 1):
            if self.server.exchange.closing.wait(pace):
                self.close_connection = True
                return
            self.wfile.write(data[start : start + size])
