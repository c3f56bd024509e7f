"""A local exchange over real sockets that verifies every request, for the demo and the tests.

It imports none of the code that it checks. `market.py` changes its groups.
"""

import base64
import threading
import time
from collections import defaultdict, deque
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from exporter.demo.answers import Answer, Request, Script
from exporter.demo.channel import Channel
from exporter.demo.groups import Groups
from exporter.demo.server import Server

BASE_PATH = "/trade-api/v2"
ENDPOINT = BASE_PATH + "/portfolio/order_groups"
STREAM_PATH = "/trade-api/ws/v2"
CLOCK_TOLERANCE = 20.0
"""Seconds by which a request's clock may be wrong: the live service accepts 10 and refuses 30."""
HIGHEST_SUBACCOUNT = 63

World: TypeAlias = Literal["predictions", "margin"]
"""The two exchanges behind one address; each has its own groups."""

_ENDPOINTS: dict[str, World] = {
    ENDPOINT: "predictions",
    BASE_PATH + "/margin/order_groups": "margin",
}
_STREAMS: dict[str, World] = {STREAM_PATH: "predictions", STREAM_PATH + "/margin": "margin"}

PublicKey: TypeAlias = rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_NOT_FOUND = Answer.error(404, "not_found", "not found")

_REMEMBERED = 10_000
"""How many requests and signatures are kept, so that a demo left running does not grow."""


class Exchange:
    """The exchange, serving on a loopback port for as long as its context lasts.

    Attributes:
        base_url: the API's URL, up to `/trade-api/v2`.
        stream_url: the WebSocket's URL for predictions; the URL for margin ends in `/margin`.
        page_size: groups per response; None sends all in one, as the live service does. This and
            the next two may be set at any time.
        compress: whether to compress responses with gzip for clients that accept it.
        clock_offset: seconds that the exchange's clock is ahead of this machine's.
        closing: set once the context ends, to wake slow responses.
    """

    def __init__(self) -> None:
        self.page_size: int | None = None
        self.compress = False
        self.clock_offset = 0.0
        self.closing = threading.Event()
        self._keys: dict[str, PublicKey] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}
        self._accounts: dict[tuple[str, World], Groups] = {}
        self._channels: dict[tuple[str, World], Channel] = {}
        self._scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._handshake_scripts: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._seen_signatures: dict[str, None] = {}  # in the order of arrival
        self._requests: deque[Request] = deque(maxlen=_REMEMBERED)
        self._request_count = 0
        self._handshakes: deque[Request] = deque(maxlen=_REMEMBERED)
        self._changed = threading.Condition()
        self._server = Server(self)
        address = f"127.0.0.1:{self._server.server_port}"
        self.base_url = f"http://{address}{BASE_PATH}"
        self.stream_url = f"ws://{address}{STREAM_PATH}"
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

    def groups(self, key_id: str, world: World = "predictions") -> Groups:
        """Return the groups that this key sees, to read and to change."""
        channel = self.channel(key_id, world)
        with self._changed:
            return self._accounts.setdefault((key_id, world), Groups(channel.tell))

    def channel(self, key_id: str, world: World = "predictions") -> Channel:
        """Return the channel of this key's events, to watch and to disturb."""
        with self._changed:
            return self._channels.setdefault((key_id, world), Channel(self.now))

    def script(self, key_id: str, *answers: Script) -> None:
        """Script the responses to the next requests of this key, one each, after earlier scripts.

        A request with a wrong signature is still refused, and uses up no scripted response.
        """
        with self._changed:
            self._scripts[key_id].extend(answers)

    def script_handshakes(self, key_id: str, *answers: Answer) -> None:
        """Refuse the next handshakes of this key with these responses, in the same manner."""
        with self._changed:
            self._handshake_scripts[key_id].extend(answers)

    def scripted(self, key_id: str) -> int:
        """Return how many scripted responses of this key still wait for a request."""
        with self._changed:
            return len(self._scripts[key_id])

    @property
    def requests(self) -> list[Request]:
        """Return the latest 10,000 requests, oldest first; a request counts before its response."""
        with self._changed:
            return list(self._requests)

    @property
    def handshakes(self) -> list[Request]:
        """Return the latest WebSocket handshakes, oldest first; accepted ones have status 101."""
        with self._changed:
            return list(self._handshakes)

    def wait_for_requests(self, count: int, *, seconds: float = 10.0) -> None:
        """Return once this many requests have come in total.

        Raises:
            TimeoutError: they did not come in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._request_count >= count, seconds):
                raise TimeoutError(f"{self._request_count} requests in {seconds} s, not {count}")

    def drop_connections(self) -> None:
        """Close every open connection silently, as a proxy does with idle ones."""
        self._server.drop_connections()

    def now(self) -> float:
        """Return the seconds since the epoch, by the exchange's clock."""
        return time.time() + self.clock_offset

    def answer(self, method: str, request: Request) -> Answer:
        """Check a request, record it and return its response."""
        answer = self._judge(method, request)
        status = None if answer.ending in {"closed", "reset"} else answer.status
        with self._changed:
            self._requests.append(replace(request, status=status))
            self._request_count += 1
            self._changed.notify_all()
        return answer

    def listen(self, request: Request) -> Answer | Channel:
        """Check and record a handshake, and return its refusal or its channel."""
        judged = self._judge_handshake(request)
        status = judged.status if isinstance(judged, Answer) else 101
        with self._changed:
            self._handshakes.append(replace(request, status=status))
        return judged

    def _judge(self, method: str, request: Request) -> Answer:
        world = _ENDPOINTS.get(request.path)
        if world is None:
            return _NOT_FOUND
        refusal = self._refusal(method, request)
        if refusal is not None:
            return refusal
        key_id = str(request.key_id)
        with self._changed:
            script = self._scripts[key_id]
            scripted = script.popleft() if script else None
        if scripted is None:
            return self._true_answer(self.groups(key_id, world), request)
        return scripted if isinstance(scripted, Answer) else scripted(request)

    def _judge_handshake(self, request: Request) -> Answer | Channel:
        world = _STREAMS.get(request.path)
        if world is None:
            return _NOT_FOUND
        refusal = self._refusal("GET", request)
        if refusal is not None:
            return refusal
        key_id = str(request.key_id)
        with self._changed:
            script = self._handshake_scripts[key_id]
            scripted = script.popleft() if script else None
        return self.channel(key_id, world) if scripted is None else scripted

    def _refusal(self, method: str, request: Request) -> Answer | None:
        """Return the refusal of a request; None if it is accepted."""
        timestamp = request.headers.get("kalshi-access-timestamp")
        signature = request.headers.get("kalshi-access-signature")
        if request.key_id is None or signature is None:
            missing = "token_authentication_failure", "signature_is_missing_from_headers"
            return Answer.unauthorized(missing[request.key_id is not None], "")
        if timestamp is None or not (timestamp.isascii() and timestamp.isdigit()):
            return Answer.unauthorized("header_timestamp_invalid", "")
        if abs(self.now() - int(timestamp) / 1000) > CLOCK_TOLERANCE:
            return Answer.unauthorized("header_timestamp_expired", "")
        message = f"{timestamp}{method}{request.path}".encode()
        details = self._fault_of_signature(request.key_id, signature, message)
        if details:
            return Answer.unauthorized(details=details)
        # The live service has keys without this scope; its response to them is not documented.
        may_read = "read" in self._scopes[request.key_id]
        refused = Answer.error(403, "insufficient_scope", "the key has no scope for this")
        return None if may_read else refused

    def _fault_of_signature(self, key_id: str, signature: str, message: bytes) -> str | None:
        key = self._keys.get(key_id)
        if key is None:
            return "NOT_FOUND"
        if not _verifies(key, signature, message):
            return "INCORRECT_API_KEY_SIGNATURE"
        # A repeated signature is refused, which the live service does not do, to prove that each
        # attempt has its own. Ed25519 is exempt: it gives the same signature twice in one
        # millisecond, and loopback is that fast.
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
