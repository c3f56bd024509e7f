"""Fetch all pages of an account's order groups: responses become an `Observation`.

https://docs.kalshi.com/api-reference/orders/get-order-groups
"""

import hashlib
from collections.abc import Callable
from datetime import datetime

from exporter.errors import InvalidResponseError
from exporter.kalshi import decode
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.error_response import with_facts
from exporter.kalshi.exchanges import ORDER_GROUPS_PATHS
from exporter.kalshi.session import SignedSession
from exporter.model import Observation, OrderGroup
from exporter.text import sanitize

# A body smaller than this is kept until the groups are built. If it were freed earlier, the groups
# would take its place in memory, and the next body would need new memory. The memory of a larger
# body goes back to the system, as malloc(3) says.
_LARGE = 32 * 1024 * 1024  # bytes


def fetch_order_groups(
    session: SignedSession,
    budget: RequestBudget,
    *,
    subaccount: int | None,
    known_digest: str | None,
    now: Callable[[], datetime],
) -> Observation:
    """Read all pages of an account's order groups.

    Args:
        session: of the account; its `max_response_size` holds for all pages together.
        budget: sets the deadline; holds attempts, status and clock skew afterwards, whether
            this returns or raises.
        subaccount: the one to ask for; None for all of them in one response.
        known_digest: of the latest observation of this account with this subaccount, if any. A
            response with the same digest is not decoded.
        now: returns the instant in UTC; called when the last byte has arrived.

    Raises:
        ApiError: no complete, valid response came; it proves nothing about any group.
    """
    path = ORDER_GROUPS_PATHS[session.exchange]
    parameters = {} if subaccount is None else {"subaccount": str(subaccount)}
    digest = _Digest()
    groups: list[OrderGroup] = []
    cursors: set[str] = set()
    bounds = decode.ResponseLimits(budget.check)
    left = session.max_response_size
    try:
        while True:
            body = session.get(path, parameters, budget, left)
            observed_at = now()
            # The check comes after reading the clock, so that a process that was suspended cannot
            # date an old response to now.
            budget.check()
            left -= len(body)
            digest.add(body)
            if not cursors and (seen := digest.text()) == known_digest:
                # The same bytes were one complete, valid page before.
                return Observation(observed_at=observed_at, digest=seen, groups=None)
            page = _decoded(body, bounds)
            groups += page.groups
            if page.cursor is not None or len(body) > _LARGE:
                del body
            if page.cursor is None:
                break
            _follow(page.cursor, cursors)
            parameters["cursor"] = page.cursor
        known = digest.text() == known_digest
        return Observation(
            observed_at=observed_at,
            digest=digest.text(),
            groups=None if known else _by_id(groups),
        )
    except InvalidResponseError as error:
        error.http_status = budget.http_status
        raise


def _decoded(body: bytes, bounds: decode.ResponseLimits) -> decode.Page:
    try:
        return decode.decode(body, bounds)
    except InvalidResponseError as error:
        raise with_facts(error, body) from error


def _follow(cursor: str, cursors: set[str]) -> None:
    if cursor in cursors:
        raise InvalidResponseError("the response repeats a cursor: its pages form a loop")
    cursors.add(cursor)


def _by_id(groups: list[OrderGroup]) -> dict[str, OrderGroup]:
    by_id = {group.id: group for group in groups}
    if len(by_id) != len(groups):
        for group in groups:
            if by_id[group.id] != group:
                quoted = sanitize(f'"{group.id}"', 60)
                raise InvalidResponseError(f"the group {quoted} came twice, with different content")
    return by_id


class _Digest:
    """Return the digest of all pages of a response and of the decoder's version.

    BLAKE2b takes 13 ms for 13 MB on every machine; SHA-256 takes 11 ms with hardware support, and
    30 ms without it.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(decode.VERSION, digest_size=32)

    def add(self, body: bytes) -> None:
        # Each page is preceded by its length, so that two different sequences of pages never give
        # the same bytes.
        self._hash.update(len(body).to_bytes(8))
        self._hash.update(body)

    def text(self) -> str:
        return self._hash.hexdigest()
