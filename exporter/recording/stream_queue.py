"""The bounded queue from the connections, on their event loop, to the thread that writes."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from exporter.causes import StreamGapCause
from exporter.model import OrderGroupEvent
from exporter.recording.stream_source import StreamAccount

MAX_EVENTS = 5_000
"""Events that may wait for the database. What has gathered is one transaction, and on SQLite polls
wait for it: so connections read no more until it is written."""

_NOTICED_LATE: frozenset[StreamGapCause] = frozenset({"lost_messages", "overflow"})
"""Only the next message shows that one before it was lost, although pings were answered since."""


@dataclass(slots=True, eq=False)
class Member:
    """An account for which a subscription listens.

    Attributes:
        joined_at: no event after this instant is missing, UTC; as is the next, the writer's.
        since: where the span that is claimed for it begins; None if none is claimed yet.
        has_begun: whether the database knows that the span begins.
        database: in which it is claimed.
    """

    account: StreamAccount
    joined_at: datetime
    since: datetime | None = None
    has_begun: bool = False
    database: str | None = None


@dataclass(slots=True, eq=False)
class Subscription:
    """The events that one subscribed connection has heard; the queue's lock guards them.

    Attributes:
        members: for whom it listens.
        until: no event up to this instant is missing among those heard so far, UTC.
        events: heard and not yet taken.
    """

    members: tuple[Member, ...]
    until: datetime
    events: list[OrderGroupEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The events that a subscription has heard for some accounts, and whether it goes on.

    Attributes:
        cause: why listening ended at `until`; None while it goes on.
        claimed_until: as in a `StreamBatch`.
    """

    members: tuple[Member, ...]
    events: Sequence[OrderGroupEvent]
    until: datetime
    cause: StreamGapCause | None = None
    claimed_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotListening:
    """A connection that could not be made for these accounts, and why."""

    accounts: tuple[StreamAccount, ...]
    at: datetime
    cause: StreamGapCause


Item: TypeAlias = Heard | NotListening


class StreamQueue:
    """The events that all connections have heard, in the order of each connection.

    Args:
        max_events: from which on `is_full`.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._max_events = max_events
        self._changed = threading.Condition()
        self._ready: deque[Item] = deque()
        self._pending: dict[Subscription, None] = {}  # in the order in which they changed
        self._count = 0
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether connections must wait before they add more."""
        return self._count >= self._max_events

    def open(self, accounts: Iterable[StreamAccount], subscribed_at: datetime) -> Subscription:
        """Begin to listen for accounts, and return the subscription."""
        members = tuple(Member(account, subscribed_at) for account in accounts)
        subscription = Subscription(members, subscribed_at)
        with self._changed:
            self._touch(subscription)
        return subscription

    def add(self, subscription: Subscription, event: OrderGroupEvent, until: datetime) -> None:
        """Add an event.

        Args:
            subscription: that heard it.
            event: with its occurrence.
            until: up to when no event is missing, counting this one.
        """
        with self._changed:
            subscription.events.append(event)
            subscription.until = max(subscription.until, until)
            self._count += 1
            self._touch(subscription)

    def extend(self, subscription: Subscription, until: datetime) -> None:
        """Note that no event is missing up to an instant, when all events so far are added."""
        with self._changed:
            if until > subscription.until:
                subscription.until = until
                self._touch(subscription)

    def replace(
        self, subscription: Subscription, accounts: Iterable[StreamAccount], now: datetime
    ) -> None:
        """Listen for other accounts from now on; those that stay notice nothing."""
        with self._changed:
            self._flush(subscription)
            former = {member.account: member for member in subscription.members}
            members = tuple(
                former.pop(account) if account in former else Member(account, now)
                for account in accounts
            )
            if former:
                self._ready.append(
                    Heard(
                        members=tuple(former.values()),
                        events=(),
                        until=subscription.until,
                        cause="not_listening",
                    )
                )
            subscription.members = members
            self._touch(subscription)

    def end(self, subscription: Subscription, until: datetime, cause: StreamGapCause) -> None:
        """Note why a subscription ended, and up to when no event is missing.

        This may be before what was certain so far, if the cause is one that is noticed late.
        """
        with self._changed:
            claimed_until = subscription.until
            if cause not in _NOTICED_LATE:
                until = max(until, claimed_until)
            subscription.until = until
            self._flush(subscription)
            self._ready.append(
                Heard(
                    members=subscription.members,
                    events=(),
                    until=until,
                    cause=cause,
                    claimed_until=claimed_until if claimed_until > until else None,
                )
            )
            self._changed.notify()

    def report(self, item: NotListening) -> None:
        """Note a connection that could not be made."""
        with self._changed:
            self._ready.append(item)
            self._changed.notify()

    def close(self) -> None:
        """Make `take` return None once everything has been taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self, timeout: float) -> list[Item] | None:
        """Take everything that has gathered; wait if there is nothing.

        Args:
            timeout: seconds after which to return an empty list.

        Returns:
            The items, each subscription's in their order; None if the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._pending or self._is_closed, timeout)
            for subscription in list(self._pending):
                self._flush(subscription)
            items = list(self._ready)
            self._ready.clear()
            self._count = 0
            return None if self._is_closed and not items else items

    def _touch(self, subscription: Subscription) -> None:
        if subscription not in self._pending:
            self._pending[subscription] = None
            self._changed.notify()

    def _flush(self, subscription: Subscription) -> None:
        if subscription not in self._pending:
            return
        del self._pending[subscription]
        events, subscription.events = subscription.events, []
        self._ready.append(
            Heard(members=subscription.members, events=events, until=subscription.until)
        )
