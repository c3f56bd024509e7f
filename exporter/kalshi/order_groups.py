"""The endpoint: a signed session and an effort become an `Observation`, through `decoding`.

https://docs.kalshi.com/api-reference/orders/get-order-groups
"""

import hashlib
from collections.abc import Callable
from datetime import datetime

from exporter.errors import InvalidResponseError
from exporter.kalshi import decoding
from exporter.kalshi.effort import Effort
from exporter.kalshi.session import SignedSession
from exporter.kalshi.text import clean
from exporter.model import Observation, OrderGroup

_PATH = "/portfolio/order_groups"


def fetch_order_groups(
    session: SignedSession,
    effort: Effort,
    *,
    subaccount: int | None,
    known_digest: str | None,
    now: Callable[[], datetime],
) -> Observation:
    """Reads all pages of an account's order groups.

    Args:
        session: of the account; its `max_response_size` holds for all pages together.
        effort: bounds the time, and tells attempts, status and clock skew afterwards, whether
            this returns or raises.
        subaccount: the one to ask for; None for all of them in one answer.
        known_digest: of the latest observation of this account with this subaccount, if any. An
            answer with the same digest is not taken apart.
        now: the instant in UTC; called when the last byte has arrived.

    Raises:
        ApiError: no complete, valid answer came; nothing may be concluded from it.
    """
    parameters = {} if subaccount is None else {"subaccount": str(subaccount)}
    digest = _Digest()
    groups: dict[str, OrderGroup] = {}
    cursors: set[str] = set()
    left = session.max_response_size
    while True:
        body = session.get(_PATH, parameters, effort, left)
        observed_at = now()
        # After the stamp, so that a pause between the two cannot date an old answer to today.
        effort.check()
        left -= len(body)
        digest.add(body)
        if not cursors and digest.text() == known_digest:
            # The same bytes were one complete, valid page before.
            return Observation(observed_at=observed_at, digest=digest.text(), groups=None)
        try:
            cursor = _take_in(body, groups, cursors)
        except InvalidResponseError as error:
            error.http_status = effort.http_status
            raise
        if cursor is None:
            break
        parameters["cursor"] = cursor
    known = digest.text() == known_digest
    return Observation(
        observed_at=observed_at, digest=digest.text(), groups=None if known else groups
    )


def _take_in(body: bytes, groups: dict[str, OrderGroup], cursors: set[str]) -> str | None:
    """Adds a page to what the pages before gave; returns the next page's cursor."""
    page = decoding.decode(body)
    for group in page.groups:
        if groups.setdefault(group.id, group) != group:
            quoted = clean(f'"{group.id}"', 60)
            raise InvalidResponseError(f"the group {quoted} came twice, with different content")
    if page.cursor in cursors:
        raise InvalidResponseError("the answer's cursor came before: its pages go round")
    if page.cursor is not None:
        cursors.add(page.cursor)
    return page.cursor


class _Digest:
    """Of all pages of an answer and of how they are decoded.

    BLAKE2b needs 13 ms for 13 MB on every machine; SHA-256 11 with the processor's help, and 30
    without it.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(decoding.VERSION, digest_size=32)

    def add(self, body: bytes) -> None:
        # With its length, so that no two sequences of pages are the same bytes.
        self._hash.update(len(body).to_bytes(8))
        self._hash.update(body)

    def text(self) -> str:
        return self._hash.hexdigest()
