"""Turn a handshake that made no WebSocket into the `StreamError` that says why."""

import ssl
import time
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from websockets.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidUpgrade,
    NegotiationError,
)
from websockets.http11 import Response

from exporter.causes import StreamGapCause
from exporter.errors import Outcome, StreamError
from exporter.http.body import clock_skew_ms, retry_after
from exporter.kalshi.auth import SECRET_HEADERS
from exporter.kalshi.error_response import error_from_response
from exporter.text import sanitize

_MAX_BODY = 64 * 1024  # bytes of an error's body that are read
_MAX_TEXT = 200  # characters of what a library or a peer says

_CAUSES: dict[Outcome, StreamGapCause] = {
    "unauthorized": "unauthorized",
    "rejected": "rejected",
    "rate_limited": "rejected",
    "invalid_response": "rejected",
}


def error_from_refusal(
    response: Response, *, sent: Mapping[str, str], began: float, key_hint: str
) -> StreamError:
    """Return the error that a response other than 101 amounts to.

    Args:
        response: whatever the peer sent.
        sent: the headers of the request, whose secrets the response may repeat.
        began: when the handshake began, in seconds since 1970.
        key_hint: the key's id as it may be shown.
    """
    # If a header is there twice, the last one counts.
    headers = {name.title(): value for name, value in response.headers.raw_items()}
    skew = clock_skew_ms(headers, began, time.time())
    body = bytes(response.body[:_MAX_BODY])
    for name in SECRET_HEADERS:
        body = body.replace(sent[name].encode(), b"***")
    error = error_from_response(
        response.status_code,
        body,
        retry_after=retry_after(headers),
        clock_skew_ms=skew,
        key_hint=key_hint,
    )
    reason, summary = error.reason, error.summary
    if response.status_code // 100 in {1, 2, 3} or response.status_code == HTTPStatus.NOT_FOUND:
        summary = f"the exchange responded {response.status_code}: check stream_url"
        if response.status_code // 100 == 3:  # noqa: PLR2004  # a redirect
            summary += "; redirects are not followed"
        reason = "; ".join(filter(None, (summary, error.code, error.message, error.details)))
    return StreamError(
        f"WebSocket: {reason}",
        cause=_CAUSES.get(error.outcome, "unreachable"),
        summary=f"WebSocket: {summary}",
        http_status=error.http_status,
        code=error.code,
        message=error.message,
        details=error.details,
        service=error.service,
        retry_after=error.retry_after,
    )


def error_from_exception(
    error: Exception, url: str, *, proxy: str | None, open_timeout: float
) -> StreamError:
    """Return the error for a failure to connect or to shake hands.

    Args:
        error: what `websockets` or asyncio raised.
        url: of the WebSocket.
        proxy: through which it was to be reached, if any; its password is not shown.
        open_timeout: seconds that were allowed.
    """
    parts = urlsplit(url)
    where = parts.netloc
    if proxy is not None:
        where += f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
    match error:
        case TimeoutError():
            what = f"no WebSocket to {where} within {open_timeout:g} s"
            return StreamError(what, cause="unreachable")
        case InvalidUpgrade() | InvalidHeader() | NegotiationError():
            said = sanitize(str(error), _MAX_TEXT)
            what = f"{where} speaks no valid WebSocket ({said}): check stream_url"
            return StreamError(what, cause="rejected")
        case InvalidProxyStatus():
            status = error.response.status_code
            what = f"no WebSocket to {where}: the proxy answered {status}"
            return StreamError(what, cause="unreachable")
        case InvalidMessage() | InvalidProxyMessage():
            said = sanitize(str(error.__cause__ or error), _MAX_TEXT)
            what = f"no valid response from {where}: {said}"
            return StreamError(what, cause="unreachable")
    said = sanitize(getattr(error, "strerror", None) or str(error) or repr(error), _MAX_TEXT)
    hint = ""
    if isinstance(error, ssl.SSLError):
        hint = "; name a company's own certificate authority in SSL_CERT_FILE"
    what = f"no WebSocket to {where}: {type(error).__name__}: {said}{hint}"
    return StreamError(what, cause="unreachable")
