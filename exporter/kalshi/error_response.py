"""Turns an answer other than 200 into the `ApiError` that says why; `session` raises it."""

import json
import re
from http import HTTPStatus

from exporter.errors import (
    ApiError,
    InvalidResponseError,
    RateLimitedError,
    RejectedError,
    ServerError,
    UnauthorizedError,
)
from exporter.text import sanitize

_QUOTED = 300  # characters of the body that one line may hold, and the most that is kept of a field
_CODE = 100  # characters; a code is a word, with an identifier after a colon at most

# About ten seconds of clock error have been seen to pass, and thirty to be refused.
_TOLERATED_SKEW = 10_000  # ms

# By what has been seen in code, message or details of a 401.
_CAUSES_OF_UNAUTHORIZED = {
    "header_timestamp_expired": "check this machine's clock",
    "INCORRECT_API_KEY_SIGNATURE": "private_key_file is not the key that belongs to this key_id",
    "NOT_FOUND": "no such key in this environment: check key_id, and environment or base_url",
    "signature_is_missing": "something between here and the exchange removes headers",
}

# How the exchange says so is not documented.
_SCOPE = re.compile("scope|permission|subaccount", re.IGNORECASE)

_TITLE = re.compile(r"<title[^>]*>([^<]{1,300})", re.IGNORECASE)


def error_from_response(
    status: int,
    body: bytes,
    *,
    retry_after: float | None,
    clock_skew_ms: int | None,
    key_hint: str,
) -> ApiError:
    """The error that an answer's status and body amount to.

    Args:
        status: any but 200.
        body: as much of it as was read; anything at all.
        retry_after: seconds, if the exchange asked us to wait.
        clock_skew_ms: this machine's clock minus the exchange's, if known.
        key_hint: the key's id as it may be shown.
    """
    code, message, details, service = _facts(body)
    quoted = sanitize("; ".join(part for part in (code, message, details) if part), _QUOTED)
    answered = f"the exchange answered {status}{_phrase(status)}"
    hint = ""
    kind: type[ApiError]
    match status // 100:
        case _ if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            kind = UnauthorizedError
            text = f"{code} {message} {details}"
            hint = f" (key {key_hint}); {_why_unauthorized(status, text, clock_skew_ms)}"
        case _ if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = RateLimitedError
        case 5:
            kind = ServerError
        case 4:
            kind = RejectedError
        case 3:
            kind = RejectedError
            hint = "; redirects are not followed: check base_url"
        case _:
            kind = InvalidResponseError
            hint = "; only a 200 is an answer"
    return kind(
        answered + (f": {quoted}" if quoted else "") + hint,
        summary=answered + hint,
        http_status=status,
        code=code,
        message=message,
        details=details,
        service=service,
        retry_after=retry_after,
    )


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _why_unauthorized(status: int, text: str, clock_skew_ms: int | None) -> str:
    """What a refusal of the credentials comes from, as far as its words and the clocks tell."""
    if clock_skew_ms is not None and (
        "header_timestamp_expired" in text or abs(clock_skew_ms) > _TOLERATED_SKEW
    ):
        side = "behind" if clock_skew_ms < 0 else "ahead of"
        return f"this machine's clock is {abs(clock_skew_ms) / 1000:.0f} s {side} the exchange's"
    for symptom, cause in _CAUSES_OF_UNAUTHORIZED.items():
        if symptom in text:
            return cause
    if status == HTTPStatus.FORBIDDEN or _SCOPE.search(text):
        return "the key may not read this: it needs the scope read, and this subaccount"
    return "check key_id, private_key_file and environment"


def _facts(body: bytes) -> tuple[str | None, str | None, str | None, str | None]:
    """Code, message, details and service of an error body in any of the forms seen."""
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        # HTML from something in between, or nothing that anybody meant.
        title = _TITLE.search(text[:4096])
        plain = " ".join((title.group(1) if title else text[:4096]).split())
        return None, _field(plain, _QUOTED), None, None
    fields = document
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        fields = document["error"]
    if not isinstance(fields, dict):
        return None, _field(fields, _QUOTED), None, None
    message = next(
        (fields[name] for name in ("message", "msg", "error") if fields.get(name) is not None), None
    )
    return (
        _field(fields.get("code"), _CODE),
        _field(message, _QUOTED),
        _field(fields.get("details"), _QUOTED),
        _field(fields.get("service"), _CODE),
    )


def _field(value: object, limit: int) -> str | None:
    """A field that should be a text, whatever it is; None for nothing."""
    if value is None:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value)
        except (ValueError, RecursionError):
            return "unreadable"
    return sanitize(value, limit) or None
