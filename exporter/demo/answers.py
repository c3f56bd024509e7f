"""The requests that the local exchange receives, and every kind of response that it sends."""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Self, TypeAlias

# Go's encoder escapes these characters inside strings; JSON has none of them elsewhere.
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
        status: of the response; None if none was sent.
    """

    received_at: float
    key_id: str | None
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The response of the exchange to one request, and the manner of sending it.

    Attributes:
        status, body: as sent.
        headers: added to the usual ones or replacing them; an empty value removes a usual one.
        delay: seconds of silence before the first byte.
        head_pace, pace: seconds before each byte of the head and of the body; 0 sends it at once.
        ending: "complete"; "truncated" closes after half of the body; "closed" closes, and "reset"
            resets, the connection without a byte of a response.
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
        """Return a response with any value, encoded as the live service would."""
        return cls(status=status, body=encode(value) + b"\n")

    @classmethod
    def error(
        cls, status: int, code: str, message: str, details: str = "", service: str = ""
    ) -> Self:
        """Return an error in the documented form."""
        named = {"code": code, "message": message, "details": details, "service": service}
        return cls.json({name: text for name, text in named.items() if text}, status=status)

    @classmethod
    def unauthorized(
        cls, code: str = "authentication_error", details: str = "INCORRECT_API_KEY_SIGNATURE"
    ) -> Self:
        """Return a 401 in the nested form of the live service."""
        error = {"code": code, "message": code.replace("_", " ")}
        return cls.json({"error": error | ({"details": details} if details else {})}, status=401)

    @classmethod
    def rate_limited(cls, retry_after: str | None = None) -> Self:
        """Return a 429, by default without Retry-After, as documented."""
        return cls(
            status=429,
            body=encode({"error": "too many requests"}) + b"\n",
            headers={} if retry_after is None else {"Retry-After": retry_after},
        )

    @classmethod
    def server_error(cls, status: int = 500) -> Self:
        """Return a 5xx from the exchange itself."""
        return cls.error(status, "internal_server_error", "internal server error")

    @classmethod
    def proxy_error(cls, status: int = 503) -> Self:
        """Return a 5xx from a proxy in front of the exchange: HTML, whatever the client accepts."""
        title = f"{status} {HTTPStatus(status).phrase}"
        page = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>{title}</body>\r\n</html>\r\n"
        )
        return cls(status=status, body=page.encode(), headers={"Content-Type": "text/html"})

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Self:
        """Return a redirect."""
        return cls(status=status, headers={"Location": location})

    @classmethod
    def gzipped(cls, body: bytes) -> Self:
        """Return a body compressed with gzip, whether or not the client accepts it."""
        return cls(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})

    @classmethod
    def hang(cls, seconds: float) -> Self:
        """Return a response that stays silent, and then closes the connection."""
        return cls(delay=seconds, ending="closed")


Script: TypeAlias = Answer | Callable[[Request], Answer] | None
"""A response, a function that makes one when the request comes, or None for the usual response."""


def encode(value: object) -> bytes:
    """Return compact JSON in UTF-8, as Go's encoder writes it, without its final newline."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()
