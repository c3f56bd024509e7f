"""The views find the event that explains a change, and the triggers, as docs/stream.md says."""

from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroup, OrderGroupEvent, StreamBatch

if TYPE_CHECKING:
    from tests.history.conftest import History


@pytest.fixture
def world(history: "History") -> "World":
    return World(history)


class World:
    """One group "g", the polls that see it, and its events. Times are in seconds after a start."""

    def __init__(self, history: "History") -> None:
        self.history = history
        self.stream = StreamStore(history.database)

    def hear(
        self, seconds: float, kind: str, limit: str | None = None, *, late: float = 0.1
    ) -> None:
        """Record an event outside any stretch of stream coverage."""
        event = OrderGroupEvent(
            order_group_id="g",
            event_type=kind,
            event_at=self.history.at(seconds),
            contracts_limit=limit,
            received_at=self.history.at(seconds + late),
        )
        self._write(None, seconds + late, event)

    def listen(self, since: float, until: float) -> None:
        """Record stream coverage without events."""
        self._write(since, until)

    def _write(self, since: float | None, until: float, *events: OrderGroupEvent) -> None:
        self.stream.write(
            StreamBatch(
                account="main",
                own_groups_only=False,
                since=None if since is None else self.history.at(since),
                until=self.history.at(until),
                events=events,
            )
        )

    def see(self, seconds: float, flag: bool | None = False, limit: str | None = "10.00") -> None:
        """Record a poll that sees the group, or no group if the flag is None."""
        groups = [] if flag is None else [OrderGroup("g", flag, limit)]
        self.history.observe(seconds, *groups)

    def changes(self) -> list[tuple[str, float, float | None]]:
        """Return the kind, the poll and the event of each change of the group."""
        rows = sorted(self.history.rows("order_group_changes"), key=lambda row: row["changed_at"])
        return [
            (row["change"], self._seconds(row["changed_at"]), self._seconds(row["event_at"]))
            for row in rows
        ]

    def events(self) -> list[float | None]:
        """Return for each change when the event that explains it happened; None without one."""
        return [event_at for _, _, event_at in self.changes()]

    def triggers(self) -> list[tuple[Any, ...]]:
        """Return the evidence, the start, the end and the kind of end of each trigger."""
        rows = sorted(
            self.history.rows("order_group_triggers"), key=lambda row: row["triggered_at"]
        )
        return [
            (
                row["evidence"],
                self._seconds(row["triggered_at"]),
                self._seconds(row["ended_at"]),
                row["ended_by"],
            )
            for row in rows
        ]

    def _seconds(self, instant: datetime | None) -> Any:
        if instant is None:
            return None
        return round((instant - self.history.at(0)).total_seconds(), 3)


def test_the_whole_life_of_a_group(world: World) -> None:
    world.see(0, None)
    world.hear(30, "created", "10.00")
    world.see(60)
    world.hear(90, "triggered")
    world.see(120, True)
    world.hear(130, "reset")
    world.hear(150, "limit_updated", "20.00")
    world.see(180, False, "20.00")
    world.hear(200, "deleted")
    world.see(240, None)
    world.see(300, None)
    assert world.changes() == [
        ("appeared", 60, 30),
        ("changed", 120, 90),
        ("changed", 180, 150),
        ("disappeared", 240, 200),
    ]
    assert world.triggers() == [("event", 90, 130, "reset")]


def test_of_several_limit_events_the_one_that_a_poll_saw_explains_the_change(world: World) -> None:
    world.see(0)
    world.hear(10, "limit_updated", "30.00")
    world.hear(20, "limit_updated", "20.00")
    world.hear(30, "limit_updated", "30.00")
    world.hear(40, "limit_updated", "50.00")  # the poll's response is older than this event
    world.see(60, limit="30.00")
    assert world.events() == [None, 30]


def test_a_change_without_its_event_is_not_explained(world: World) -> None:
    world.see(0)
    world.hear(10, "reset")
    world.hear(20, "limit_updated", "30.00")
    world.see(60, True, "20.00")
    assert world.events() == [None, None]
    assert world.triggers() == [("flag", 60, None, None)]


def test_an_event_may_be_late(world: World) -> None:
    world.see(0)
    world.see(60, True)
    world.hear(59, "triggered", late=4)
    assert world.events() == [None, None]  # without coverage, an earlier event may have been missed
    world.listen(-1, 70)
    assert world.events() == [None, 59]
    assert world.triggers() == [("event", 59, None, None)]


@pytest.mark.parametrize(("heard", "kind"), [(71, "triggered"), (62, "reset"), (66, "triggered")])
def test_a_later_event_explains_nothing(world: World, heard: float, kind: str) -> None:
    world.see(0)
    world.see(60, True)
    world.listen(-1, 80)
    world.see(65)
    world.see(66)
    world.hear(heard, kind)
    assert world.events()[1] is None


def test_a_poll_during_an_event_may_show_the_state_before_it(world: World) -> None:
    world.see(0)
    world.see(60)
    world.hear(61, "triggered")
    world.see(75)  # the response is older than the event
    world.see(76, True)
    assert world.events() == [None, 61]
    assert world.triggers() == [("event", 61, None, None)]


def test_a_reset_and_a_trigger_shortly_after_each_other(world: World) -> None:
    world.see(0)
    world.hear(30, "triggered")
    world.see(60, True)
    world.hear(61, "reset")
    world.hear(62, "triggered")
    world.see(70)
    world.see(71, True)
    assert world.events() == [None, 30, 61, 62]
    assert world.triggers() == [("event", 30, 61, "reset"), ("event", 62, None, None)]


def test_an_event_that_explained_a_change_explains_no_other(world: World) -> None:
    """After the stream has broken, an old trigger does not explain a change that polls see."""
    world.see(0)
    world.hear(5, "triggered")
    world.see(6, True)
    world.see(10)
    world.see(12, True)
    assert world.events() == [None, 5, None, None]
    assert world.triggers() == [("event", 5, 10, "reset"), ("flag", 12, None, None)]


def test_triggers_between_two_polls(world: World) -> None:
    world.see(0)
    for second in (10, 20, 30):
        world.hear(second, "triggered")
        world.hear(second + 5, "reset")
    world.see(60)
    assert world.triggers() == [
        ("event", 10, 15, "reset"),
        ("event", 20, 25, "reset"),
        ("event", 30, 35, "reset"),
    ]


def test_the_deletion_of_a_group_ends_its_trigger(world: World) -> None:
    world.see(0)
    world.hear(10, "triggered")
    world.see(60, True)
    world.see(120, None)
    world.see(180, None)
    assert world.triggers() == [("event", 10, 120, "deleted")]
    world.hear(110, "deleted")
    assert world.triggers() == [("event", 10, 110, "deleted")]


def test_polls_end_a_trigger_whose_reset_was_missed(world: World) -> None:
    world.see(0)
    world.hear(10, "triggered")
    world.see(60, True)
    world.see(120)
    world.hear(500, "triggered")
    world.hear(510, "reset")
    assert world.triggers() == [("event", 10, 120, "reset"), ("event", 500, 510, "reset")]


@pytest.mark.parametrize(
    ("events", "limit"),
    [
        ((), "10.00"),
        (((20, "20.00"),), "20.00"),
        (((20, "20.00"), (25, "25.00")), "25.00"),
        (((30, "30.00"),), "30.00"),  # in the same millisecond, it may be what triggered the group
        (((40, "40.00"),), "10.00"),
        (((-5, "5.00"),), "10.00"),  # a poll has seen another limit since
    ],
)
def test_the_limit_in_force(
    world: World, events: tuple[tuple[float, str], ...], limit: str
) -> None:
    world.see(0)
    for second, value in events:
        world.hear(second, "limit_updated", value)
    world.hear(30, "triggered")
    [row] = world.history.rows("order_group_triggers")
    assert str(row["contracts_limit"]) == limit


def test_the_exchanges_clock_may_be_wrong(world: World) -> None:
    world.see(0)
    world.hear(30 + 55, "triggered", late=-55)
    world.see(60, True)
    world.hear(90 - 55, "reset", late=55)
    world.see(120)
    assert world.events() == [None, 85, 35]


@pytest.mark.parametrize("seed", range(8))
def test_with_complete_coverage_every_change_is_explained(world: World, seed: int) -> None:
    """With polls at random times between events, each change is explained by its own event."""
    chance = Random(seed)
    now, flag, limit = 0.0, False, "10.00"
    by_flag: float | None = None
    by_limit: float | None = None
    world.listen(-10, 2000)
    world.see(now)
    seen = (flag, limit)
    expected: list[float | None] = [None]
    triggers = 0
    for _ in range(25):
        now += 1 + chance.random() * 20
        if chance.random() < 0.6:
            if chance.random() < 0.5:
                flag, by_flag = not flag, round(now, 3)
                triggers += flag
                world.hear(by_flag, "triggered" if flag else "reset")
            else:
                limit, by_limit = chance.choice(["10.00", "20.00", "30.00"]), round(now, 3)
                world.hear(by_limit, "limit_updated", limit)
            continue
        world.see(round(now, 3), flag, limit)
        if seen != (flag, limit):
            made = [by_flag] * (seen[0] != flag) + [by_limit] * (seen[1] != limit)
            expected.append(max(each for each in made if each is not None))
        seen = (flag, limit)
    assert world.events() == expected
    found = world.triggers()
    assert [evidence for evidence, *_ in found] == ["event"] * triggers
    assert sum(end is None for _, _, end, _ in found) == flag
