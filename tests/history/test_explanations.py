"""Which event explains a change, and what counts as a trigger: docs/stream.md, rule by rule."""

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
    """One group "g", what polls see of it, and what is heard, in seconds after a start."""

    def __init__(self, history: "History") -> None:
        self.history = history
        self.stream = StreamStore(history.database)

    def hear(
        self, seconds: float, kind: str, limit: str | None = None, *, late: float = 0.1
    ) -> None:
        """Hear an event outside of any stretch."""
        event = OrderGroupEvent(
            order_group_id="g",
            event_type=kind,
            event_at=self.history.at(seconds),
            contracts_limit=limit,
            received_at=self.history.at(seconds + late),
        )
        self._write(None, seconds + late, event)

    def listen(self, since: float, until: float) -> None:
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
        """Poll; the group is absent if the flag is None."""
        groups = [] if flag is None else [OrderGroup("g", flag, limit)]
        self.history.observe(seconds, *groups)

    def changes(self) -> list[tuple[str, float, float | None]]:
        """Kind, poll and event of each change of the group."""
        rows = sorted(self.history.rows("order_group_changes"), key=lambda row: row["changed_at"])
        return [
            (row["change"], self._seconds(row["changed_at"]), self._seconds(row["event_at"]))
            for row in rows
        ]

    def events(self) -> list[float | None]:
        """Of each change, the event that explains it."""
        return [event_at for _, _, event_at in self.changes()]

    def triggers(self) -> list[tuple[Any, ...]]:
        """Evidence, start, end and what ended it."""
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


def test_a_whole_life(world: World) -> None:
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


def test_of_two_limits_the_one_in_force_explains(world: World) -> None:
    world.see(0)
    world.hear(10, "limit_updated", "30.00")
    world.hear(20, "limit_updated", "20.00")
    world.hear(30, "limit_updated", "30.00")
    world.hear(40, "limit_updated", "50.00")  # the answer is older than that
    world.see(60, limit="30.00")
    assert world.events() == [None, 30]


def test_what_nobody_heard_is_not_explained(world: World) -> None:
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
    assert world.events() == [None, None]  # did somebody listen before?
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


def test_a_poll_that_was_under_way_shows_what_was_before(world: World) -> None:
    world.see(0)
    world.see(60)
    world.hear(61, "triggered")
    world.see(75)  # asked before
    world.see(76, True)
    assert world.events() == [None, 61]
    assert world.triggers() == [("event", 61, None, None)]


def test_a_reset_and_a_trigger_within_one_answer(world: World) -> None:
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
    """The stream breaks after a trigger; the reset and the next trigger are seen by polls alone."""
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


def test_a_group_that_is_deleted_is_triggered_no_more(world: World) -> None:
    world.see(0)
    world.hear(10, "triggered")
    world.see(60, True)
    world.see(120, None)
    world.see(180, None)
    assert world.triggers() == [("event", 10, 120, "deleted")]
    world.hear(110, "deleted")
    assert world.triggers() == [("event", 10, 110, "deleted")]


def test_polls_end_a_trigger_whose_reset_nobody_heard(world: World) -> None:
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
        (((30, "30.00"),), "30.00"),  # in the same millisecond: it may have been the reason
        (((40, "40.00"),), "10.00"),
        (((-5, "5.00"),), "10.00"),  # a poll saw the state later
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


def test_the_exchange_s_clock_does_not_matter(world: World) -> None:
    world.see(0)
    world.hear(30 + 55, "triggered", late=-55)
    world.see(60, True)
    world.hear(90 - 55, "reset", late=55)
    world.see(120)
    assert world.events() == [None, 85, 35]


@pytest.mark.parametrize("seed", range(8))
def test_all_that_is_heard_explains_what_it_did(world: World, seed: int) -> None:
    """Polls at random between events: each change is explained by the event that made it so."""
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
