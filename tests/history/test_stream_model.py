"""A stateful model of the stream, which both databases must agree with.

For any instant the database lists every event that the exchange sent, or claims no coverage. Two
daemons listen to one exchange, which knows what it sent. Connections break at any point; messages
are lost, repeated, and reordered within a millisecond; batches are spooled, written twice or lost;
processes are killed; and the machine's clock is set forward and back.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from sqlalchemy import delete
from sqlalchemy.event import listen, remove

from exporter.causes import StreamGapCause
from exporter.history import schema
from exporter.history.occurrences import Occurrences
from exporter.history.store import Store
from exporter.history.stream_store import StreamStore
from exporter.model import Observation, OrderGroup, OrderGroupEvent, Poll, StreamBatch

if TYPE_CHECKING:
    from tests.history.conftest import History

TICK = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)

Content = tuple[Any, ...]

ACCEPTED = timedelta(seconds=30)  # the exchange refuses a handshake if the clock is more wrong
SMALL = timedelta(seconds=6)  # more than the errors that the model gives an accepted clock


class Killed(Exception):  # noqa: N818  # it is not an error
    """The process is killed before its next statement."""


@dataclass(frozen=True)
class Sent:
    """An event that the exchange sent, and what the machine's clock showed then."""

    event: OrderGroupEvent
    label: datetime | None  # None while the clock repeats instants, which are ambiguous
    at: datetime | None = None  # the true time

    @property
    def content(self) -> Content:
        event = self.event
        return (event.order_group_id, event.event_type, event.event_at, event.contracts_limit)


@dataclass(frozen=True)
class Message:
    """A message on its way to a daemon: an event with its number, or a pong."""

    number: int
    event: OrderGroupEvent | None
    pinged_at: datetime | None = None
    label: datetime | None = None  # the machine's clock when the message was sent


@dataclass
class Connection:
    """What a daemon knows about its subscription, and the messages on their way to it."""

    since: datetime
    until: datetime
    number: Occurrences
    expected: int
    intact_until: datetime
    has_begun: bool = True
    on_its_way: list[Message] = field(default_factory=list)
    lost: list[Content] = field(default_factory=list)


@dataclass
class Daemon:
    """A process with a spool that outlives it, and with two clocks.

    One clock dates the events that arrive, and never goes back. The other dates how far coverage
    is certain. Its error is that of the machine's clock when the process last checked it.
    """

    connection: Connection | None = None
    heard: list[OrderGroupEvent] = field(default_factory=list)
    spool: list[StreamBatch] = field(default_factory=list)
    last: datetime | None = None
    offset: timedelta = timedelta()

    def now(self, wall: datetime) -> datetime:
        """Return the time on the daemon's clock."""
        self.last = wall if self.last is None else max(wall, self.last + TICK)
        return self.last


names = st.sampled_from(["one", "two"])
groups = st.sampled_from(["a", "b", "x"])
kinds = st.sampled_from(["created", "triggered", "reset", "deleted", "limit_updated"])
causes: st.SearchStrategy[StreamGapCause] = st.sampled_from(["disconnected", "overflow"])


class Listeners(RuleBasedStateMachine):
    """Two daemons, the exchange, and a wall clock that may be wrong."""

    history: ClassVar["History"]
    own_groups_only: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.true = self.history.at(0)
        self.offset = timedelta()
        self.label = self.true - timedelta(days=1)
        self.sent: list[Sent] = []
        self.sequence = 0
        self.there: set[str] = set()
        self.daemons = {"one": Daemon(), "two": Daemon()}
        self.store = StreamStore(self.history.database)
        self.polls = Store(self.history.database, owner="first")
        self.last_poll: datetime | None = None
        # Lost events that no daemon can know of yet, because no later message has arrived.
        self.unnoticed: Counter[Content] = Counter()
        self.noticed: list[tuple[StreamBatch, list[Content]]] = []
        with self.history.database.transaction() as connection:
            for table in schema.metadata.tables.values():
                connection.execute(delete(table))

    # These rules change the world around the daemons.

    @property
    def wall(self) -> datetime:
        return self.true + self.offset

    @rule(seconds=st.sampled_from([0.0004, 0.01, 3.0, 20.0, 90.0]))
    def wait(self, seconds: float) -> None:
        self.true += timedelta(seconds=min(seconds, 1.0))
        if seconds > 1.0:
            for daemon in self.daemons.values():
                self._check_clock(daemon)
        self.true += timedelta(seconds=max(seconds - 1.0, 0.0))

    @rule(seconds=st.sampled_from([-100.0, -5.0, 0.0, 5.0, 100.0]))
    def set_clock(self, seconds: float) -> None:
        self.offset = timedelta(seconds=seconds)

    def _check_clock(self, daemon: Daemon) -> None:
        """Let a daemon notice that the clock was set, and end its connection, as every second."""
        if daemon.offset != self.offset:
            self._end(daemon, "not_listening")
            daemon.offset = self.offset

    @rule(
        some=st.lists(st.tuples(groups, kinds), min_size=1, max_size=4),
        shuffled=st.booleans(),
    )
    def send(self, some: list[tuple[str, str]], shuffled: bool) -> None:
        """Send events of one millisecond, which connections may receive in any order."""
        self.true += MILLISECOND
        at = self.true.replace(microsecond=self.true.microsecond // 1000 * 1000)
        messages = []
        for group, kind in some:
            if (kind == "created") == (group in self.there):
                continue  # an existing group cannot be created; other events need an existing group
            if kind == "created":
                self.there.add(group)
            elif kind == "deleted":
                self.there.discard(group)
            event = OrderGroupEvent(
                order_group_id=group,
                event_type=kind,
                event_at=at,
                contracts_limit="5.00" if kind == "limit_updated" else None,
                received_at=at,
            )
            self.sent.append(Sent(event, self._new_label(), self.true))
            self.sequence += 1
            messages.append((event, self.label))
        for index, daemon in enumerate(self.daemons.values()):
            if daemon.connection is not None:
                heard = reversed(messages) if shuffled and index else messages
                first = self.sequence - len(messages) + 1
                daemon.connection.on_its_way += [
                    Message(first + order, event, label=label)
                    for order, (event, label) in enumerate(heard)
                ]
        self.true += 2 * MILLISECOND

    def _new_label(self) -> datetime | None:
        is_new = self.wall > self.label
        self.label = max(self.wall, self.label)
        self.true += TICK
        return self.label if is_new else None

    def _now(self, daemon: Daemon) -> datetime:
        now = self.true + daemon.offset
        self.label = max(self.label, now)
        self.true += TICK
        return now

    def _heard_at(self, daemon: Daemon) -> datetime:
        now = daemon.now(self.wall)
        self.label = max(self.label, now)
        self.true += TICK
        return now

    # These rules make the daemons act.

    @rule(name=names, flush=st.booleans(), away=st.booleans())
    def connect(self, name: str, flush: bool, away: bool) -> None:
        daemon = self.daemons[name]
        if daemon.connection is not None:
            return
        self._check_clock(daemon)
        if abs(self.offset) > ACCEPTED:
            refused = StreamBatch(
                account="main",
                own_groups_only=self.own_groups_only,
                since=None,
                until=self.wall,
                cause="unauthorized",
            )
            self._keep(daemon, refused)
            return
        now = self._now(daemon)
        away = away or bool(daemon.spool)
        since = now if away else self._begin(now)
        daemon.connection = Connection(
            since=since,
            until=since,
            number=Occurrences(),
            expected=self.sequence + 1,
            intact_until=since,
            has_begun=not away,
        )
        if away:
            self.flush_without_database(name)
        elif flush:
            self._flush(daemon)

    @rule(name=names)
    def ping(self, name: str) -> None:
        daemon = self.daemons[name]
        if daemon.connection is not None:
            now = self._now(daemon)
            daemon.connection.on_its_way.append(Message(0, None, now))

    @rule(name=names, count=st.integers(1, 6), flush=st.booleans())
    def receive(self, name: str, count: int, flush: bool) -> None:
        daemon = self.daemons[name]
        connection = daemon.connection
        if connection is None:
            return
        for message in connection.on_its_way[:count]:
            if message.event is None:
                assert message.pinged_at is not None
                connection.until = max(connection.until, message.pinged_at)
                continue
            if message.number != connection.expected:
                self._end(daemon, "lost_messages")
                return
            connection.expected += 1
            assert message.label is not None
            connection.intact_until = max(connection.intact_until, message.label)
            event = _heard(message.event, self._heard_at(daemon))
            daemon.heard.append(connection.number.number(event))
        del connection.on_its_way[:count]
        if flush:
            self._flush(daemon)

    @rule(name=names)
    def receive_everything(self, name: str) -> None:
        """Receive and write all messages, which is the normal case."""
        self.connect(name, flush=True, away=False)
        self.ping(name)
        self.receive(name, count=1000, flush=True)

    @precondition(lambda self: any(each.connection for each in self.daemons.values()))
    @rule(name=names, index=st.integers(0, 3))
    def lose_a_message(self, name: str, index: int) -> None:
        connection = self.daemons[name].connection
        if connection is not None and index < len(connection.on_its_way):
            event = connection.on_its_way.pop(index).event
            if event is not None:
                content = Sent(event, None).content
                connection.lost.append(content)
                self.unnoticed[content] += 1

    @rule(name=names, claims=st.booleans(), away=st.booleans(), notices=st.booleans())
    def lose_messages_unnoticed(self, name: str, claims: bool, away: bool, notices: bool) -> None:
        """Lose messages while pings are answered, so that only the next message reveals it."""
        daemon = self.daemons[name]
        self.receive(name, count=1000, flush=True)
        if daemon.connection is None:
            return
        self.send([("a", "created"), ("a", "triggered")], shuffled=False)
        while daemon.connection.on_its_way:
            self.lose_a_message(name, 0)
        if claims:
            self.true += timedelta(seconds=3)
            self.ping(name)
            self.receive(name, count=1, flush=not away)
            if away:
                self.flush_without_database(name)
        if notices:
            self.send([("a", "triggered")], shuffled=False)
            self.receive(name, count=1000, flush=True)

    @rule(name=names)
    def flush(self, name: str) -> None:
        self._flush(self.daemons[name])

    @rule(name=names)
    def flush_without_database(self, name: str) -> None:
        daemon = self.daemons[name]
        if daemon.connection is not None:
            daemon.spool.append(self._batch(daemon))

    @rule(name=names)
    def flush_with_unknown_result(self, name: str) -> None:
        """Write a batch and spool it too: the commit succeeded, but the connection was lost."""
        daemon = self.daemons[name]
        if daemon.connection is not None and not daemon.spool:
            batch = self._batch(daemon)
            self._write(batch)
            daemon.spool.append(batch)

    @rule(name=names)
    def flush_without_room(self, name: str) -> None:
        """Lose the received events: neither the database nor the spool accepts them."""
        daemon = self.daemons[name]
        if daemon.connection is not None:
            lost = self._batch(daemon)
            daemon.spool.append(replace(lost, since=None, events=(), cause="not_kept"))
            daemon.connection.since = self._now(daemon)
            daemon.connection.until = daemon.connection.since

    @rule(name=names, forget=st.booleans())
    def drain(self, name: str, forget: bool) -> None:
        """Write the spooled batches in order; without `forget`, a later drain writes them again."""
        daemon = self.daemons[name]
        for batch in daemon.spool:
            self._write(batch)
        if forget:
            daemon.spool.clear()

    @rule(name=names, cause=causes)
    def disconnect(self, name: str, cause: StreamGapCause) -> None:
        self._end(self.daemons[name], cause)

    @rule(name=names)
    def kill(self, name: str) -> None:
        self.daemons[name] = Daemon(spool=self.daemons[name].spool, offset=self.offset)

    @rule(
        name=names,
        statement=st.integers(1, 8),
        act=st.sampled_from(["connect", "flush", "drain", "end"]),
    )
    def kill_at_a_statement(self, name: str, statement: int, act: str) -> None:
        """Kill the process before a statement or a commit of an action."""
        count = itertools.count(1)

        def die(*_: Any) -> None:
            if next(count) == statement:
                raise Killed

        daemon = self.daemons[name]
        engine = self.history.database.engine
        for moment in ("before_cursor_execute", "commit"):
            listen(engine, moment, die)
        try:
            match act:
                case "connect":
                    self.connect(name, flush=True, away=False)
                case "flush":
                    self._flush(daemon)
                case "drain":
                    self.drain(name, forget=True)
                case "end":
                    self._end(daemon, "disconnected")
        except Killed:
            self.kill(name)
        finally:
            for moment in ("before_cursor_execute", "commit"):
                remove(engine, moment, die)

    @rule(late=st.sampled_from([0.0, 1.0, 6.0]))
    def poll(self, late: float) -> None:
        """Poll the account's groups; the response may arrive late."""
        ours = {each for each in self.there if not (self.own_groups_only and each == "x")}
        started_at = max(self.wall, (self.last_poll or self.wall) + TICK)
        self.true += timedelta(seconds=late)
        observed_at = max(self.wall, started_at + TICK)
        self.last_poll = observed_at
        head = self.polls.claim("main", now=started_at, lease=-10_000.0)
        observation = Observation(
            observed_at=observed_at,
            digest=repr(sorted(ours)),
            groups={each: OrderGroup(each, False) for each in ours},
        )
        poll = Poll(
            account="main",
            started_at=started_at,
            finished_at=observed_at,
            outcome="ok",
            attempts=1,
            observation=observation,
        )
        self.polls.write(poll, head=head, interval=60.0, confirm_removal=1)

    def _end(self, daemon: Daemon, cause: StreamGapCause) -> None:
        if daemon.connection is None:
            return
        batch = replace(self._batch(daemon), cause=cause)
        if cause == "lost_messages":
            intact_until = daemon.connection.intact_until
            if intact_until < batch.until:
                batch = replace(batch, until=intact_until, claimed_until=batch.until)
            self.noticed.append((batch, daemon.connection.lost))
        self._keep(daemon, batch)
        daemon.connection = None

    def _flush(self, daemon: Daemon) -> None:
        connection = daemon.connection
        if connection is None:
            return
        if not connection.has_begun and not daemon.spool:
            self._begin(connection.since)
            connection.has_begun = True
        self._keep(daemon, self._batch(daemon))

    def _begin(self, since: datetime) -> datetime:
        begun = self.store.begin("main", since, now=self.wall)
        for row in self.history.rows_of("stream_coverage")["stream_coverage"]:
            assert row["ended_at"] <= self.wall + timedelta(seconds=2), "claims the future"
        return begun

    def _keep(self, daemon: Daemon, batch: StreamBatch) -> None:
        """Write a batch, or spool it behind the batches that wait."""
        if daemon.spool:
            daemon.spool.append(batch)
        else:
            self._write(batch)

    def _batch(self, daemon: Daemon) -> StreamBatch:
        assert daemon.connection is not None
        batch = StreamBatch(
            account="main",
            own_groups_only=self.own_groups_only,
            since=daemon.connection.since,
            until=daemon.connection.until,
            events=tuple(daemon.heard),
        )
        daemon.heard = []
        return batch

    def _write(self, batch: StreamBatch) -> None:
        note(f"{batch}")
        self.store.write(batch)
        for written, lost in self.noticed:
            if written is batch:
                self.unnoticed.subtract(lost)
                lost.clear()

    @invariant()
    def covered_events_are_listed(self) -> None:
        said = self.history.rows_of("order_group_events", "stream_coverage", "stream_gaps")
        stretches = [(row["started_at"], row["ended_at"]) for row in said["stream_coverage"]]
        recorded = Counter(
            (row["order_group_id"], row["event_type"], row["event_at"], _text(row))
            for row in said["order_group_events"]
        )
        ours = [
            each
            for each in self.sent
            if not (self.own_groups_only and each.event.order_group_id == "x")
        ]
        sent = {each.content for each in ours}
        for content, count in recorded.items():
            assert count == 1, f"listed more than once: {content}"
            assert content in sent, f"never sent: {content}"
        claimed = {
            each.content
            for each in ours
            if each.label is not None
            and any(start <= each.label <= end for start, end in stretches)
        }
        # Even if the clock was set, events well inside a stretch must be listed.
        claimed |= {
            each.content
            for each in ours
            if each.at is not None
            and any(start + SMALL < each.at < end - SMALL for start, end in stretches)
        }
        for content in claimed - (+self.unnoticed).keys():
            assert content in recorded, f"claimed, but not listed: {content}"
        assert sum(row["events"] for row in said["stream_coverage"]) <= recorded.total()

        # The stretches are disjoint, in order, and each gap lies between two of them.
        gaps = [(row["gap_start"], row["gap_end"]) for row in said["stream_gaps"]]
        ends = [end for _, end in stretches[:-1]]
        starts = [start for start, _ in stretches[1:]]
        assert gaps == list(zip(ends, starts, strict=True))
        assert all(start < end for start, end in gaps)
        assert all(start <= end for start, end in stretches)
        latest = [row["is_latest"] for row in said["stream_coverage"]]
        assert latest == [False] * (len(latest) - 1) + [True] * bool(latest)


def _heard(event: OrderGroupEvent, at: datetime) -> OrderGroupEvent:
    from msgspec.structs import replace as with_

    return with_(event, received_at=at)


def _text(row: dict[str, Any]) -> str | None:
    return None if row["contracts_limit"] is None else str(row["contracts_limit"])


@pytest.mark.parametrize("own_groups_only", [False, True])
def test_covered_events_are_listed_whatever_happens(
    history: "History", own_groups_only: bool
) -> None:
    run_state_machine_as_test(
        type("Here", (Listeners,), {"history": history, "own_groups_only": own_groups_only}),
        settings=settings(
            max_examples=settings().max_examples // 4,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
