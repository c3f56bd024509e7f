"""Read a response within bounds: its body, and its headers that concern time."""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

import requests

from exporter.errors import InvalidResponseError

_BLOCK = 64 * 1024  # bytes

_LONGEST_RETRY_AFTER = 86_400.0  # seconds; more is a mistake or malice


def read_body(response: requests.Response, limit: int, check_deadline: Callable[[], None]) -> bytes:
    """Return the decoded body of a streamed response.

    Args:
        response: with its body unread.
        limit: bytes, after decompression.
        check_deadline: called between blocks, because inflating takes time too; raises once the
            deadline has passed.

    Raises:
        InvalidResponseError: the body is larger than the limit, its encoding is unknown, or its
            gzip stream is broken.
        Exception: whatever urllib3 and http.client raise for a transfer that breaks off.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        inflater = None
    elif encoding in {"gzip", "x-gzip"}:
        inflater = _Inflater()
    else:
        raise InvalidResponseError("the response's Content-Encoding was not asked for")
    # BytesIO needs no further copy at the end, as a list of blocks would.
    body = io.BytesIO()
    size = 0
    while block := response.raw.read(_BLOCK, decode_content=False):
        for part in inflater.feed(block) if inflater else (block,):
            check_deadline()
            size += len(part)
            if size > limit:
                raise InvalidResponseError(
                    f"the response is larger than max_response_size allows ({limit} bytes left)"
                )
            body.write(part)
        if response.raw.length_remaining == 0:
            break  # reading the end as well would slow a small poll
    if not size and "Content-Length" not in response.headers and not response.raw.chunked:
        # If the connection ends inside the header, http.client takes that for the header's end.
        raise EOFError("the connection ended before the body")
    if inflater and not inflater.complete:
        raise InvalidResponseError("the response's gzip stream breaks off")
    return body.getvalue()


class _Inflater:
    """Inflate gzip in small portions, so that a decompression bomb is refused early."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.complete:  # a stream may have several members
                self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
                self.complete = False
            try:
                yield self._member.decompress(data, _BLOCK)
            except zlib.error as error:
                raise InvalidResponseError(
                    f"the response's gzip stream is broken: {error}"
                ) from None
            self.complete = self._member.eof
            data = self._member.unused_data if self.complete else self._member.unconsumed_tail


def clock_skew_ms(headers: Mapping[str, str], began: float, ended: float) -> int | None:
    """Return this machine's clock minus the exchange's in milliseconds, to about half a second.

    Args:
        headers: of the response.
        began: when the request was sent, in seconds since 1970 by this machine's clock.
        ended: when the header had arrived, by the same clock.

    Returns:
        None without a readable Date.
    """
    date = _instant(headers.get("Date", ""))
    if date is None:
        return None
    # A Date has whole seconds: on average it is half a second old.
    return round(((began + ended) / 2 - (date.timestamp() + 0.5)) * 1000)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait before the next request; None without a readable Retry-After.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#name-retry-after count. A date is measured
    against the response's own Date, so that only the server's clock matters.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), _LONGEST_RETRY_AFTER)
    until = _instant(text)
    if until is None:
        return None
    since = _instant(headers.get("Date", "")) or datetime.now(UTC)
    return min(max((until - since).total_seconds(), 0.0), _LONGEST_RETRY_AFTER)


@lru_cache(maxsize=1)  # the responses of one second have the same Date
def _instant(text: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(text)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
