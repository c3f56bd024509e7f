"""The stream store writes each event once, and keeps the stretches of stream coverage."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from exporter.causes import StreamGapCause
from exporter.history.occurrences import Occurrences
from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroupEvent, StreamBatch

if TYPE_CHECKING:
    from tests.history.conftest import History

MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def stream(history: "History") -> "Stream":
    """Return the stream of an account in a database of each kind."""
    return Stream(history)


class Stream:
    """Writes and reads the stream of the account "main". Times are in seconds after a start."""

    def __init__(self, history: "History") -> None:
        self.history = history
        self.store = StreamStore(history.database)

    def event(
        self, seconds: float, kind: str = "triggered", group: str = "a", **fields: Any
    ) -> OrderGroupEvent:
        """Return an event that arrived 3 ms after it happened."""
        at = self.history.at(seconds)
        fields = {"event_at": at, "received_at": at + 3 * MILLISECOND} | fields
        return OrderGroupEvent(order_group_id=group, event_type=kind, **fields)

    def hear(
        self,
        since: float | None,
        until: float,
        *events: OrderGroupEvent,
        cause: StreamGapCause | None = None,
        own_groups_only: bool = False,
        claimed_until: float | None = None,
    ) -> int:
        """Write one batch, and return how many events it added."""
        batch = StreamBatch(
            account="main",
            own_groups_only=own_groups_only,
            since=None if since is None else self.history.at(since),
            until=self.history.at(until),
            events=events,
            cause=cause,
            claimed_until=None if claimed_until is None else self.history.at(claimed_until),
        )
        return self.store.write(batch).added

    def begin(self, since: float, *, now: float | None = None) -> float:
        """Return from when on a connection that subscribed at `since` may claim coverage."""
        at = self.history.at
        return self.seconds(
            self.store.begin("main", at(since), now=at(since if now is None else now))
        )

    def stretches(self) -> list[tuple[float, float, int]]:
        """Return the start, the end and the events of each stretch."""
        return [
            (self.seconds(row["started_at"]), self.seconds(row["ended_at"]), row["events"])
            for row in self.rows()
        ]

    def gaps(self) -> list[tuple[float, float, str]]:
        """Return the start, the end and the cause of each gap."""
        return [
            (self.seconds(row["gap_start"]), self.seconds(row["gap_end"]), row["cause"])
            for row in self.history.rows("stream_gaps")
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of stream coverage, and check what must always hold."""
        rows = self.history.rows("stream_coverage")
        assert [row["is_latest"] for row in rows] == [False] * (len(rows) - 1) + [True] * bool(rows)
        for before, after in pairwise(rows):
            assert before["ended_at"] == after["gap_started_at"] < after["started_at"]
            assert after["gap_cause"] is not None
        assert all(row["gap_started_at"] is row["gap_cause"] is None for row in rows[:1])
        return rows

    def seconds(self, instant: datetime) -> float:
        """Return an instant in seconds after the start, rounded to a tenth of a millisecond."""
        return round((instant - self.history.at(0)).total_seconds(), 4)

    def heard(self) -> list[tuple[float, str]]:
        """Return when each recorded event happened, and its type."""
        rows = self.history.rows("order_group_events")
        return [(self.seconds(row["occurred_at"]), row["event_type"]) for row in rows]


def test_an_event_that_two_connections_received_is_one_row(stream: Stream) -> None:
    event = stream.event(1, contracts_limit="50.00", extra='{"x":1e400}')
    assert stream.hear(0, 1, event) == 1
    late = OrderGroupEvent(
        order_group_id="a",
        event_type="triggered",
        event_at=event.event_at,
        contracts_limit="50.00",
        received_at=stream.history.at(9),
        extra='{"x":1e400}',
    )
    assert stream.hear(0.5, 10, late) == 0
    [row] = stream.history.rows("order_group_events")
    assert row["received_at"] == event.received_at
    assert str(row["contracts_limit"]) == "50.00"
    assert row["extra"] == '{"x":1e400}'
    assert stream.stretches() == [(0, 10, 1)]


def test_events_that_differ_in_any_field_are_separate_rows(stream: Stream) -> None:
    events = [
        stream.event(1),
        stream.event(1, "reset"),
        stream.event(1, group="b"),
        stream.event(1.001),
        stream.event(1, contracts_limit="1.00"),
        stream.event(1, contracts_limit="2.00"),
        stream.event(1, extra="{}"),
        stream.event(1, "1 - - triggered"),
    ]
    assert stream.hear(0, 2, *events) == len(events)
    assert stream.hear(0, 2, *reversed(events)) == 0
    assert len(stream.heard()) == len(events)


def test_an_event_that_is_sent_again_is_one_row(stream: Stream) -> None:
    def numbered(count: int) -> list[OrderGroupEvent]:
        number = Occurrences().number
        return [number(stream.event(1)) for _ in range(count)]

    assert stream.hear(0, 2, *numbered(2)) == 1
    assert stream.hear(0, 2, *numbered(3)) == 0
    assert len(stream.heard()) == 1


def test_events_without_a_time_are_told_apart_by_their_arrival(stream: Stream) -> None:
    def numbered(*seconds: float) -> list[OrderGroupEvent]:
        number = Occurrences().number
        return [
            number(stream.event(at, event_at=None, received_at=stream.history.at(at)))
            for at in seconds
        ]

    assert stream.hear(0, 100, *numbered(1, 2, 30)) == 3
    assert stream.hear(0, 100, *numbered(1.2, 2.2, 30.1)) == 0
    assert stream.hear(0, 100, *numbered(2.2, 30.1)) == 0
    assert stream.hear(0, 100, *numbered(30.2, 31)) == 1
    assert len(stream.heard()) == 4


def test_a_connection_extends_its_stretch(stream: Stream) -> None:
    stream.hear(0, 0)
    stream.hear(0, 10)
    stream.hear(0, 11, stream.event(11))
    stream.hear(0, 5)  # a late batch from the spool
    assert stream.stretches() == [(0, 11, 1)]
    assert stream.gaps() == []


@pytest.mark.parametrize("cause", ["disconnected", None])
def test_a_connection_that_ended_leaves_a_gap(stream: Stream, cause: StreamGapCause | None) -> None:
    stream.hear(0, 10, cause=cause)
    stream.hear(12, 13)
    assert stream.stretches() == [(0, 10, 0), (12, 13, 0)]
    assert stream.gaps() == [(10, 12, cause or "not_listening")]
    assert stream.history.row("stream_gaps")["seconds"] == 2.0


def test_the_first_of_several_causes_counts(stream: Stream) -> None:
    stream.hear(None, 1, cause="unauthorized")
    stream.hear(2, 10, cause="lost_messages")
    stream.hear(None, 11, cause="unreachable")
    stream.hear(20, 30)
    stream.hear(None, 31, cause="unreachable")
    stream.hear(40, 50)
    assert stream.gaps() == [(10, 20, "lost_messages"), (30, 40, "unreachable")]


def test_a_daemon_that_stays_connected_closes_the_gap_of_others(stream: Stream) -> None:
    """Of three daemons, one stays; the second is killed and the third starts in between."""
    stream.hear(0, 10)  # the daemon that stays
    stream.hear(1, 11, cause="disconnected")
    stream.hear(15, 15)  # the new daemon
    assert stream.gaps() == [(11, 15, "disconnected")]
    stream.hear(0, 20)  # the daemon that stayed
    assert stream.stretches() == [(0, 20, 0)]
    stream.hear(15, 21)
    assert stream.stretches() == [(0, 21, 0)]


def test_a_span_from_the_spool_fills_the_gap_that_it_covers(stream: Stream) -> None:
    stream.hear(0, 10, cause="disconnected")
    stream.hear(100, 110, stream.event(105), cause="overflow")
    stream.hear(200, 210)
    stream.hear(50, 60, stream.event(55), cause="unauthorized")
    assert stream.gaps() == [
        (10, 50, "disconnected"),
        (60, 100, "unauthorized"),
        (110, 200, "overflow"),
    ]
    stream.hear(40, 120, stream.event(55), stream.event(115), cause="disconnected")
    assert stream.stretches() == [(0, 10, 0), (40, 120, 3), (200, 210, 0)]
    assert stream.gaps() == [(10, 40, "disconnected"), (120, 200, "disconnected")]
    stream.hear(5, 205)
    assert stream.stretches() == [(0, 210, 3)]


def test_a_message_lost_long_ago_revokes_the_coverage_claimed_since(
    stream: Stream,
) -> None:
    stream.hear(0, 3600)
    assert stream.hear(0, 10, cause="lost_messages", claimed_until=3600) == 0
    assert stream.stretches() == [(0, 10, 0)]
    stream.hear(3601, 3610)
    assert stream.gaps() == [(10, 3601, "lost_messages")]
    # The batch is written again, as after a commit whose success was unknown.
    stream.hear(0, 10, cause="lost_messages", claimed_until=3600)
    assert stream.gaps() == [(10, 3601, "lost_messages")]


def test_another_connection_reclaims_its_part_of_revoked_coverage(stream: Stream) -> None:
    stream.hear(0, 100)
    stream.hear(50, 120)  # another connection, which started later
    stream.hear(0, 10, cause="lost_messages", claimed_until=100)
    assert [each[:2] for each in stream.stretches()] == [(0, 10), (100, 120)]
    stream.hear(50, 130, stream.event(125))
    assert stream.stretches() == [(0, 10, 0), (50, 130, 1)]
    assert stream.gaps() == [(10, 50, "lost_messages")]
    # The same holds if later stretches follow.
    stream.hear(50, 60, cause="lost_messages", claimed_until=130)
    stream.hear(200, 210)
    stream.hear(0, 5, cause="lost_messages", claimed_until=10)
    assert stream.gaps() == [(5, 50, "lost_messages"), (60, 200, "lost_messages")]


def test_a_stretch_from_the_spool_may_be_earlier_than_the_first(stream: Stream) -> None:
    stream.hear(100, 110)
    stream.hear(50, 60)
    assert stream.gaps() == [(60, 100, "not_listening")]
    stream.hear(20, 105)
    assert stream.stretches() == [(20, 110, 0)]


def test_no_connection_fills_a_gap_whose_events_were_not_kept(stream: Stream) -> None:
    stream.hear(0, 10)
    stream.hear(None, 12, cause="not_kept")
    stream.hear(20, 30)
    stream.hear(0, 40)
    assert stream.stretches() == [(0, 10, 0), (20, 40, 0)]
    assert stream.gaps() == [(10, 20, "not_kept")]


def test_a_connection_begins_after_the_claimed_coverage(stream: Stream) -> None:
    assert stream.begin(5) == 5
    stream.hear(0, 10)
    assert stream.begin(12) == 12
    # The end of the stretch was written by another machine, whose clock is a little ahead.
    assert stream.begin(8.5) == 10
    since = stream.store.begin("main", stream.history.at(8.5), now=stream.history.at(8.5))
    assert since > stream.history.at(10)
    after = (since - stream.history.at(0)).total_seconds()
    stream.hear(after, 9)
    stream.hear(after, 20)
    assert stream.gaps() == [(10, 10, "not_listening")]
    # If the database was away at the subscription, the connection begins after the stretch too.
    assert stream.begin(12, now=30) == 20


def test_coverage_claimed_in_the_future_is_revoked(stream: Stream) -> None:
    stream.hear(0, 10, cause="not_listening")  # the clock was set forward
    stream.hear(3600, 3700, stream.event(3650), cause="not_listening")  # and set back
    assert stream.begin(70) == 70
    assert stream.stretches() == [(0, 10, 0)]
    # The recorded end of the stream must not be later than the next stretch.
    row = stream.history.row("accounts")
    assert row["stream_ended_at"] == stream.history.at(70)
    stream.hear(70, 80)
    assert stream.gaps() == [(10, 70, "not_listening")]
    stream.hear(70, 90)
    assert stream.stretches() == [(0, 10, 0), (70, 90, 0)]
    assert len(stream.heard()) == 1  # the event itself is kept


def test_if_all_coverage_lies_in_the_future_none_is_left(
    stream: Stream,
) -> None:
    stream.hear(3600, 3700)
    stream.hear(3800, 3900)
    assert stream.begin(70) == 70
    assert stream.stretches() == []
    stream.hear(70, 80)
    assert stream.stretches() == [(70, 80, 0)]
    assert stream.gaps() == []


def test_a_clock_slightly_ahead_costs_a_minute_of_coverage(
    stream: Stream,
) -> None:
    stream.hear(0, 1000)
    assert stream.begin(970) == 970
    assert stream.stretches() == [(0, 910, 0)]
    stream.hear(970, 980)
    assert stream.gaps() == [(910, 970, "not_listening")]


def test_the_stretch_of_a_clock_far_ahead_is_revoked(
    stream: Stream,
) -> None:
    stream.hear(0, 10)
    stream.hear(20, 3600)
    assert stream.begin(970) == 970
    assert stream.stretches() == [(0, 10, 0), (20, 20, 0)]


def test_any_order_of_spans_gives_the_same_stretches(stream: Stream) -> None:
    """Several daemons may write their spans in any order."""
    from random import Random

    chance = Random(3)
    for _ in range(20):
        spans = []
        for _ in range(4):
            since = chance.randrange(100)
            spans.append((since, since + chance.randrange(1, 30)))
        covered = sorted(spans)
        merged = [covered[0]]
        for start, end in covered[1:]:
            if start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        with stream.history.database.transaction() as connection:
            from exporter.history.schema import stream_coverage

            connection.execute(stream_coverage.delete())
        for since, until in chance.sample(spans, len(spans)):
            stream.hear(since, until)
        assert [(start, end) for start, end, _ in stream.stretches()] == merged


# The remaining tests are about an account with a subaccount.


@pytest.fixture
def own(stream: Stream) -> Callable[..., int]:
    """Return `hear` for an account that keeps only the events of its own groups."""

    def hear(*args: Any, **kwargs: Any) -> int:
        return stream.hear(*args, **kwargs, own_groups_only=True)

    return hear


def test_events_of_a_group_that_a_poll_saw_are_recorded_at_once(
    stream: Stream, own: Callable[..., int]
) -> None:
    stream.history.observe(0, stream.history.group("a"))
    assert own(0, 2, stream.event(1)) == 1
    assert stream.stretches() == [(0, 2, 1)]


def test_an_event_before_the_poll_that_sees_its_group_waits_for_it(
    stream: Stream, own: Callable[..., int]
) -> None:
    own(0, 1)
    assert own(0, 3, stream.event(2, "created", "b")) == 0
    assert stream.heard() == []
    assert stream.stretches() == [(0, 1, 0)]
    stream.history.observe(2.5, stream.history.group("b"))
    assert stream.heard() == [(2, "created")]
    own(0, 4)
    assert stream.stretches() == [(0, 4, 1)]
    assert stream.history.rows("undecided_events") == []


def test_events_of_another_subaccount_are_never_shown(
    stream: Stream, own: Callable[..., int]
) -> None:
    own(0, 1)
    own(0, 3, stream.event(2, "created", "x"))
    stream.history.observe(2.5)
    own(0, 4)
    assert stream.stretches() == [(0, 1, 0)]  # the list of groups may lag behind the events
    stream.history.observe(60)
    own(0, 61, stream.event(60.5, group="x"))
    assert stream.stretches() == [(0, 61, 0)]
    assert stream.heard() == []
    assert stream.history.rows("undecided_events") == []
    own(0, 70, stream.event(65, group="x"))
    assert stream.stretches() == [(0, 70, 0)]


def test_events_that_cannot_be_assigned_leave_a_gap(
    stream: Stream, own: Callable[..., int]
) -> None:
    own(0, 1.5)
    own(0, 3, stream.event(2, "created", "x"), stream.event(2.25, "deleted", "x"))
    own(0, 60)
    assert stream.stretches() == [
        (0, 1.5, 0)
    ]  # a poll that is still to be written may have seen the group
    stream.history.observe(62)
    own(0, 63)
    assert stream.gaps() == [(1.5, 2.253, "not_kept")]
    own(0, 70)
    assert stream.stretches()[-1] == (2.253, 70, 0)
    assert stream.heard() == []


def test_a_connection_that_ends_while_events_wait_keeps_its_cause(
    stream: Stream, own: Callable[..., int]
) -> None:
    own(0, 1)
    own(0, 3, stream.event(2, "created", "x"), cause="overflow")
    stream.history.observe(60)
    own(61, 70)
    assert stream.gaps() == [(1, 61, "overflow")]


def test_a_loss_revokes_what_the_connection_claimed_in_several_stretches(stream: Stream) -> None:
    stream.hear(0, 10)
    stream.hear(None, 12, cause="not_kept")
    stream.hear(20, 30)
    # Its first message after the loss shows that one was lost since the fifth second.
    stream.hear(20, 5, cause="lost_messages", claimed_until=30)
    assert stream.stretches() == [(0, 5, 0)]
    stream.hear(40, 50)
    assert stream.gaps() == [(5, 40, "not_kept")]
