"""Claim and write polls on Postgres with the exporter's store, as fast as it goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from time import perf_counter

from benchmarks.place import Place
from exporter.database.database import Database
from exporter.history.store import Store
from exporter.history.stream_store import StreamStore
from exporter.model import Observation, OrderGroup, OrderGroupEvent, Poll, StreamBatch

GROUPS = 25  # groups of each account
INTERVAL = 60.0  # seconds
_LEASE = 20.0  # seconds


class Writer:
    """Writes for some accounts in turn, over one connection.

    Args:
        database: the database, with the schema.
        accounts: the names of the accounts.
        seconds: how long each call of `poll` writes.
        triggered: whether each poll finds all groups of its account triggered or reset.
    """

    def __init__(
        self, database: Database, accounts: list[str], seconds: float, *, triggered: bool
    ) -> None:
        self._store = Store(database, owner="benchmark")
        self._streams = StreamStore(database)
        self._accounts = accounts
        self._seconds = seconds
        self._triggered = triggered
        self._number = count(1)
        self._since = datetime.now(UTC)
        if triggered:
            for account in accounts:
                self._listen(account, self._since)
                self._poll(account, enabled=False)

    def poll(self) -> dict[str, float]:
        """Write for some seconds, and return how many polls were written."""
        until = perf_counter() + self._seconds
        done = 0
        while perf_counter() < until:
            number = next(self._number)
            account = self._accounts[number % len(self._accounts)]
            if self._triggered:
                enabled = number // len(self._accounts) % 2 == 0
                now = datetime.now(UTC)
                kind = "triggered" if enabled else "reset"
                self._listen(account, now, *(_event(group, kind, now) for group in range(GROUPS)))
                self._poll(account, enabled=enabled)
            else:
                self._poll(account)
            done += 1
        return {"polls": done}

    def _poll(self, account: str, *, enabled: bool | None = None) -> None:
        """Claim an account, and write a poll that sees no change, or all flags as `enabled`."""
        now = datetime.now(UTC)
        head = self._store.claim(account, now=now, lease=_LEASE)
        if enabled is None:
            seen = Observation(observed_at=now, digest=head.digest or "", groups=None)
        else:
            groups = {
                each.id: each
                for each in (
                    OrderGroup(f"group {number}", enabled, "10.00") for number in range(GROUPS)
                )
            }
            seen = Observation(observed_at=now, digest=f"all {enabled} {now}", groups=groups)
        poll = Poll(
            account=account,
            started_at=now,
            finished_at=now + timedelta(milliseconds=1),
            outcome="ok",
            attempts=1,
            http_status=200,
            observation=seen,
        )
        self._store.write(poll, head=head, interval=INTERVAL, confirm_removal=2)

    def _listen(self, account: str, until: datetime, *events: OrderGroupEvent) -> None:
        batch = StreamBatch(
            account=account,
            own_groups_only=False,
            since=self._since,
            until=until,
            events=events,
        )
        self._streams.write(batch)


def _event(group: int, kind: str, at: datetime) -> OrderGroupEvent:
    return OrderGroupEvent(
        order_group_id=f"group {group}", event_type=kind, event_at=at, received_at=at
    )


@contextmanager
def subject(place: Place) -> Iterator[Writer]:
    """Yield a writer; `detail` is "FIRST LAST SECONDS KIND": its accounts, and what it writes."""
    first, last, seconds, what = place.detail.split()
    accounts = [f"account {number}" for number in range(int(first), int(last))]
    database = Database(place.sqlalchemy_url, pool_size=1)
    try:
        yield Writer(database, accounts, float(seconds), triggered=what == "triggered")
    finally:
        database.close()
