"""Count equal events without a time on one connection, so that each stays an event of its own.

The exchange numbers messages for each connection alone, so two connections know the same event by
what it says. An event with the exchange's time is one event however often it is heard. Without a
time, a group that triggers, is reset and triggers again says the same thing twice: the second of
two such events on one connection is the second on every other.
"""

from datetime import datetime, timedelta

import msgspec

from exporter.model import OrderGroupEvent

UNDATED_WINDOW = timedelta(seconds=10)
"""Equal events without a time are one event if two connections heard them no further apart."""

_MOST_KEPT = 100_000  # equal events follow each other closely: the exchange sends them in order


class Occurrences:
    """The undated events that one connection has heard; for one thread at a time."""

    def __init__(self) -> None:
        # Keys are hashes, which take a tenth of the memory. A collision is harmless: it only gives
        # an event a higher number, on every connection alike.
        self._heard: dict[int, list[datetime]] = {}

    def number(self, event: OrderGroupEvent) -> OrderGroupEvent:
        """Return the event with its `occurrence` on this connection; call once for each event."""
        if event.event_at is not None:
            return event
        key = hash((event.order_group_id, event.event_type, event.contracts_limit, event.extra))
        since = event.received_at - UNDATED_WINDOW
        recent = [at for at in self._heard.pop(key, []) if at > since]
        recent.append(event.received_at)
        self._heard[key] = recent
        if len(self._heard) > _MOST_KEPT:
            del self._heard[next(iter(self._heard))]
        return msgspec.structs.replace(event, occurrence=len(recent))
