"""What the local exchange is asked, and what it can say: requests, and answers of every kind."""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Self, TypeAlias

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
        """CircuitBreaker, then the end of the connection."""
        return cls(delay=seconds, ending="closed")


Script: TypeAlias = Answer | Callable[[Request], Answer] | None
"""An answer, something that makes one when the request comes, or None for the true answer."""


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8, as Go's encoder writes it, without the newline that ends an answer."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()
