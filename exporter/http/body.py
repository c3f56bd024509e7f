"""Reads an answer within bounds for `session`: its body, and what its header says of time."""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from exporter.errors import InvalidResponseError

_BLOCK = 64 * 1024  # bytes

_LONGEST_RETRY_AFTER = 86_400.0  # seconds; more is a mistake or malice


def read_body(response: requests.Response, limit: int, check_deadline: Callable[[], None]) -> bytes:
    """The decoded body of a streamed answer.

    Args:
        response: whose body has not been touched.
        limit: bytes, after decompression.
        check_deadline: called between blocks; raises once time is used up, since inflating
            what has arrived takes time too.

    Raises:
        InvalidResponseError: larger than the limit, an unknown encoding, or broken gzip.
        Exception: what urllib3 and http.client raise for a transfer that breaks off.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        inflater = None
    elif encoding in {"gzip", "x-gzip"}:
        inflater = _Inflater()
    else:
        raise InvalidResponseError("the answer's Content-Encoding was not asked for")
    # Not a list of blocks, which would all be copied at the end.
    body = io.BytesIO()
    size = 0
    while block := response.raw.read(_BLOCK, decode_content=False):
        for part in inflater.feed(block) if inflater else (block,):
            check_deadline()
            size += len(part)
            if size > limit:
                raise InvalidResponseError(
                    f"the answer is larger than max_response_size allows ({limit} bytes left)"
                )
            body.write(part)
    if not size and "Content-Length" not in response.headers and not response.raw.chunked:
        # http.client takes a connection that ends inside the header for the end of the header.
        raise EOFError("the connection ended before the body")
    if inflater and not inflater.complete:
        raise InvalidResponseError("the answer's gzip stream breaks off")
    return body.getvalue()


class _Inflater:
    """Gzip in small portions, so that a bomb is seen before it has gone off."""

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
                raise InvalidResponseError(f"the answer's gzip stream is broken: {error}") from None
            self.complete = self._member.eof
            data = self._member.unused_data if self.complete else self._member.unconsumed_tail


def clock_skew_ms(headers: Mapping[str, str], began: float, ended: float) -> int | None:
    """This machine's clock minus the exchange's in milliseconds, to about half a second.

    Args:
        headers: of the answer; None is returned without a readable Date.
        began: when the request went out, in seconds since 1970 by this machine's clock.
        ended: when the header had come, likewise.
    """
    date = _instant(headers.get("Date", ""))
    if date is None:
        return None
    # A Date names the second that it falls in: on average it is half a second old.
    return round(((began + ended) / 2 - (date.timestamp() + 0.5)) * 1000)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the exchange asks us to wait; None if it does not, or unreadably.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#name-retry-after are understood; a date is
    measured against the answer's own, so that no clock but the exchange's matters.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), _LONGEST_RETRY_AFTER)
    until = _instant(text)
    if until is None:
        return None
    since = _instant(headers.get("Date", "")) or datetime.now(UTC)
    return min(max((until - since).total_seconds(), 0.0), _LONGEST_RETRY_AFTER)


def _instant(text: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(text)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
