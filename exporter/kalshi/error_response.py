"""Turn a response that holds no order groups into the `ApiError` that says why."""

import json
import re
from http import HTTPStatus

import msgspec

from exporter.errors import (
    ApiError,
    InvalidResponseError,
    RateLimitedError,
    RejectedError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from exporter.text import sanitize

_QUOTED = 300  # characters of the body that one line may hold, and the most that is kept of a field
_CODE = 100  # characters; a code is a word, perhaps followed by a colon and an identifier
_LONGEST_ERROR = 64 * 1024  # bytes; a longer body is no error's
_ERROR_KEYS = frozenset({"error", "code", "message", "msg", "details"})

# The exchange has accepted clock errors of about ten seconds, and refused thirty.
_TOLERATED_SKEW = 10_000  # ms

# The remedy, by words that the code, message or details of a 401 have been seen to hold.
_REMEDIES = {
    "header_timestamp_expired": "check this machine's clock",
    "INCORRECT_API_KEY_SIGNATURE": "private_key_file is not the key that belongs to this key_id",
    "NOT_FOUND": "no such key in this environment: check key_id, and environment or base_url",
    "signature_is_missing": "something between here and the exchange removes headers",
}

# Kalshi does not document how it refuses a key that lacks a scope.
_SCOPE = re.compile("scope|permission|subaccount", re.IGNORECASE)

_TITLE = re.compile(r"<title[^>]*>([^<]{1,300})", re.IGNORECASE)
_HTML = re.compile(
    rb"\s*(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)


class ErrorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an error body, sanitized and bounded.

    Attributes:
        code, message, details, service: None if not sent.
        from_exchange: whether it is a JSON object, as all of the exchange's errors are; otherwise a
            proxy or a content network wrote it.
        replaces_groups: whether that object has an error's keys and no list of groups.
        page: whether it is a web page; `message` is its title then.
    """

    code: str | None = None
    message: str | None = None
    details: str | None = None
    service: str | None = None
    from_exchange: bool = False
    replaces_groups: bool = False
    page: bool = False

    def quoted(self) -> str:
        """Return all fields as one text, empty if there are none."""
        return sanitize(
            "; ".join(part for part in (self.code, self.message, self.details) if part), _QUOTED
        )


def error_from_response(
    status: int,
    body: bytes,
    *,
    retry_after: float | None,
    clock_skew_ms: int | None,
    key_hint: str,
) -> ApiError:
    """Return the error that a response's status and body amount to.

    Args:
        status: any but 200.
        body: the part of it that was read; it may hold anything.
        retry_after: seconds, if the exchange asked for a pause.
        clock_skew_ms: this machine's clock minus the exchange's, if known.
        key_hint: the key's id as it may be shown.
    """
    facts = read_facts(body)
    quoted = facts.quoted()
    responded = f"the exchange responded {status}{_phrase(status)}"
    hint = ""
    kind: type[ApiError]
    match status // 100:
        case _ if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            if facts.from_exchange:
                kind = UnauthorizedError
                text = f"{facts.code} {facts.message} {facts.details}"
                hint = f" (key {key_hint}); {_why_unauthorized(status, text, clock_skew_ms)}"
            else:
                # The exchange refuses credentials in JSON.
                kind = InterceptedError
                responded = (
                    f"something in front of the exchange responded {status}{_phrase(status)}"
                )
                hint = (
                    "; the key was not judged: check firewalls and proxies, and whether the"
                    " exchange's content network blocks this address"
                )
        case _ if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = RateLimitedError
        case 5:
            kind = ServerError
        case _ if status == HTTPStatus.NOT_FOUND:
            kind = RejectedError
            hint = "; check base_url, which ends in /trade-api/v2"
        case 4:
            kind = RejectedError
        case 3:
            kind = RejectedError
            hint = "; redirects are not followed: check base_url"
        case _:
            kind = InvalidResponseError
            hint = "; only a 200 holds order groups"
    return kind(
        responded + (f": {quoted}" if quoted else "") + hint,
        summary=responded + hint,
        http_status=status,
        code=facts.code,
        message=facts.message,
        details=facts.details,
        service=facts.service,
        retry_after=retry_after,
    )


class InterceptedError(UnreachableError):
    """A proxy or a content network responded in the exchange's place, and would do so again."""

    retryable = False


def with_facts(error: InvalidResponseError, body: bytes) -> InvalidResponseError:
    """Return the error of a 200 that holds no order groups, with the error in its body.

    Kalshi has sent errors with status 200, and a captive portal or a content network sends a web
    page.

    Args:
        error: the decoder's error for the body.
        body: of the 200.
    """
    if len(body) > _LONGEST_ERROR:
        return error
    facts = read_facts(body)
    if facts.page:
        title = f", titled “{facts.message}”" if facts.message else ""
        reason = f"the response is a web page{title}, not the exchange's JSON"
        return InvalidResponseError(
            f"{reason}: check base_url, and proxies in between",
            summary=reason,
        )
    if not facts.replaces_groups:
        return error
    quoted = facts.quoted()
    return InvalidResponseError(
        f"the exchange responded 200 with an error{f': {quoted}' if quoted else ''}",
        summary="the exchange responded 200 with an error",
        code=facts.code,
        message=facts.message,
        details=facts.details,
        service=facts.service,
    )


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _why_unauthorized(status: int, text: str, clock_skew_ms: int | None) -> str:
    """Return why the exchange refused the credentials, as far as its words and the clocks tell."""
    if clock_skew_ms is not None and (
        "header_timestamp_expired" in text or abs(clock_skew_ms) > _TOLERATED_SKEW
    ):
        side = "behind" if clock_skew_ms < 0 else "ahead of"
        return f"this machine's clock is {abs(clock_skew_ms) / 1000:.0f} s {side} the exchange's"
    for symptom, remedy in _REMEDIES.items():
        if symptom in text:
            return remedy
    if status == HTTPStatus.FORBIDDEN or _SCOPE.search(text):
        return "the key may not read this: it needs the scope read, and this subaccount"
    return "check key_id, private_key_file and environment"


def read_facts(body: bytes) -> ErrorFacts:
    """Return the content of an error body, in any form that has been seen.

    Args:
        body: it may hold anything.
    """
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        title = _TITLE.search(text[:4096])
        page = title is not None or _HTML.match(body[:4096]) is not None
        plain = "" if page and title is None else title[1] if title else text[:4096]
        return ErrorFacts(message=_field(" ".join(plain.split()), _QUOTED), page=page)
    if not isinstance(document, dict):
        return ErrorFacts(message=_field(document, _QUOTED))
    fields = document["error"] if isinstance(document.get("error"), dict) else document
    message = next(
        (fields[name] for name in ("message", "msg", "error") if fields.get(name) is not None), None
    )
    return ErrorFacts(
        code=_field(fields.get("code"), _CODE),
        message=_field(message, _QUOTED),
        details=_field(fields.get("details"), _QUOTED),
        service=_field(fields.get("service"), _CODE),
        from_exchange=True,
        replaces_groups=(
            document.get("order_groups") is None and not _ERROR_KEYS.isdisjoint(document)
        ),
    )


def _field(value: object, limit: int) -> str | None:
    """Return a field as text, whatever its type; None if it is missing, null or empty."""
    if value is None:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value)
        except (ValueError, RecursionError):
            return "unreadable"
    return sanitize(value, limit) or None
