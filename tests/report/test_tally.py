"""Test that both databases count the same of the same states, wherever a span begins and ends."""

import random
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from exporter.history.schema import order_group_snapshots
from exporter.model import OrderGroup
from exporter.reading.connect import read_only_transaction
from exporter.report import span as spans
from exporter.report.counting import tally_of
from exporter.report.span import Span
from exporter.report.tally import Ranked, most_kept
from exporter.report.triggers import timelines_of, triggers_of
from tests.support.recorder import Recorder

MINUTE = 60


def record(recorders: tuple[Recorder, ...], chance: random.Random) -> None:
    """Record groups that appear, change, trigger, disappear and come back, in both databases."""
    present: dict[str, OrderGroup] = {}
    confirm_removal = chance.choice([1, 2])
    for minute in range(40):
        for name in "abcdef":
            if chance.random() > 0.4:
                continue
            if name in present and chance.random() < 0.3:
                del present[name]
            else:
                limit = chance.choice(["1.00", "2.00"])
                present[name] = OrderGroup(name, chance.random() < 0.5, limit)
        for recorder in recorders:
            recorder.ok(MINUTE * minute, present.values(), confirm_removal=confirm_removal)


@pytest.mark.parametrize("seed", range(3))
def test_both_databases_count_the_same(two_recorders: tuple[Recorder, ...], seed: int) -> None:
    chance = random.Random(seed)
    record(two_recorders, chance)
    first, last = two_recorders[0].at(-1), two_recorders[0].at(40 * MINUTE)
    with read_only_transaction(two_recorders[0].url) as connection:
        instants = sorted(set(connection.scalars(select(order_group_snapshots.c.valid_from))))
    whole = [(first, last)]
    some = [tuple(sorted(chance.sample(instants, 2))) for _ in range(15)]
    for since, until in [*whole, *some]:
        span = spans.cut(since, until, sharing=1, interval=MINUTE)
        on_sqlite, on_postgres = (counted(recorder, span) for recorder in two_recorders)
        assert on_sqlite == on_postgres, (since, until)


def counted(recorder: Recorder, span: Span) -> dict[str, Any]:
    """Return what a tally says, and the latest trigger of each group as the page shows it."""
    with read_only_transaction(recorder.url) as connection:
        tally = tally_of(connection, "main", span, [])
        triggers = triggers_of(connection, "main", span, tally, [])
        latest = timelines_of(connection, "main", span, triggers, "abcdef", last_only=True)
        found = timelines_of(connection, "main", span, triggers, "abcdef", last_only=False)
    assert {group: each[-1] for group, each in found.items()} == {
        group: each[0] for group, each in latest.items()
    }
    return {
        "standing": (tally.standing, tally.flagged),
        "changes": tally.changes,
        "triggers": (tally.triggers, tally.triggers_of),
        "groups": (tally.groups, tally.busiest),
        "found": found,
    }


def test_a_group_counts_in_the_part_in_which_it_changed(recorder: Any) -> None:
    off, on = (OrderGroup("a", flag) for flag in (False, True))
    for minute, seen in enumerate([[off], [on], [on], [], [off], [off]]):
        recorder.ok(MINUTE * minute, seen, confirm_removal=1)
    span = spans.cut(recorder.at(0), recorder.at(6 * MINUTE), sharing=1, interval=MINUTE)
    with closing(recorder.database), read_only_transaction(recorder.url) as connection:
        tally = tally_of(connection, "main", span, [])
        unlisted = tally_of(connection, "main", span, ["a"])
    parts = [span.part(recorder.at(MINUTE * minute)) for minute in (0, 1, 3, 4)]
    assert list(tally.changes) == sorted(set(parts))
    assert (tally.standing, tally.flagged) == (0, 0)
    totals = [sum(each) for each in zip(*tally.changes.values(), strict=True)]
    assert totals == [1, 1, 1, 1, 0]  # it appeared, changed, disappeared and was found once
    assert tally.triggers == {parts[1]: 1}
    assert tally.triggers_of == {"a": 1}
    expected = Ranked(id="a", changes=3, states=3, first=recorder.at(0), last=at(recorder, 4))
    assert tally.busiest == [expected]
    if recorder.database.is_sqlite:
        assert tally.trigger_ends == {"a": at(recorder, 3)}
        assert unlisted.triggers_of == {}  # its events tell of its triggers


def at(recorder: Recorder, minutes: int) -> datetime:
    return recorder.at(MINUTE * minutes)


def test_a_page_of_many_accounts_keeps_fewer_groups_of_each() -> None:
    start = Recorder.at(0)
    alone, shared = (
        spans.cut(start, Recorder.at(MINUTE), sharing=sharing, interval=MINUTE)
        for sharing in (1, 1_000)
    )
    assert most_kept(alone) == 1_000 * most_kept(shared)
