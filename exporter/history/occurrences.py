"""Counts equal events of one connection, so that each stays an event of its own.

The exchange numbers messages for each connection alone. So two connections know the same event by
what it says, and an event that the exchange sends twice by its count: the second of two equal
events on one connection is the second on the other.
"""

from datetime import datetime, timedelta

import msgspec

from exporter.model import OrderGroupEvent

UNDATED_WINDOW = timedelta(seconds=10)
"""Equal events without a time of the exchange's are one event if two connections heard them no
further apart than this."""

_MOST_KEPT = 100_000  # equal events follow each other closely: the exchange sends them in order


class Occurrences:
    """The events that one connection has heard; for one thread at a time."""

    def __init__(self) -> None:
        # By hash, which takes a tenth of the memory. A collision is harmless: on both connections
        # no event is lost by it.
        self._heard: dict[int, int] = {}
        self._undated: dict[int, list[datetime]] = {}

    def number(self, event: OrderGroupEvent) -> OrderGroupEvent:
        """Return the event with its `occurrence` on this connection; call once for each event."""
        key = hash(
            (
                event.order_group_id,
                event.event_type,
                event.event_at,
                event.contracts_limit,
                event.extra,
            )
        )
        count = self._count_undated(key, event) if event.event_at is None else self._count(key)
        return event if count == 1 else msgspec.structs.replace(event, occurrence=count)

    def _count(self, key: int) -> int:
        count = self._heard.pop(key, 0) + 1
        self._heard[key] = count
        if len(self._heard) > _MOST_KEPT:
            del self._heard[next(iter(self._heard))]
        return count

    def _count_undated(self, key: int, event: OrderGroupEvent) -> int:
        since = event.received_at - UNDATED_WINDOW
        recent = [at for at in self._undated.pop(key, []) if at > since]
        recent.append(event.received_at)
        self._undated[key] = recent
        if len(self._undated) > _MOST_KEPT:
            del self._undated[next(iter(self._undated))]
        return len(recent)
