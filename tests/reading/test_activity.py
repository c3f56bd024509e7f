"""`activity_since` counts what the views show, on both databases."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

import pytest
from sqlalchemy import Connection, func, select

from exporter.history.stream_store import StreamStore
from exporter.model import OrderGroup, OrderGroupEvent, StreamBatch
from exporter.reading import views
from exporter.reading.activity import activity_since
from exporter.reading.connect import read_only_transaction
from tests.support.recorder import Recorder
from tests.support.samples import UNTIL, Sample, write_samples

OFF, ON = OrderGroup("a", False), OrderGroup("a", True)
NOTHING = {"appeared": 0, "changed": 0, "disappeared": 0, "triggers": 0}


def counted(connection: Connection, hours: float) -> Mapping[str, Mapping[str, int]]:
    """Count the views' rows of the last hours, in the form of `activity_since`."""
    since = UNTIL - timedelta(hours=hours)
    changes, triggers = views.order_group_changes, views.order_group_triggers
    found: dict[str, dict[str, int]] = {}
    for account, change, count in connection.execute(
        select(changes.c.account, changes.c.change, func.count())
        .where(changes.c.changed_at >= since, changes.c.not_before.is_not(None))
        .group_by(changes.c.account, changes.c.change)
    ):
        found.setdefault(account, dict(NOTHING))[change] = count
    for account, count in connection.execute(
        select(triggers.c.account, func.count())
        .where(triggers.c.triggered_at >= since)
        .group_by(triggers.c.account)
    ):
        found.setdefault(account, dict(NOTHING))["triggers"] = count
    return found


@pytest.mark.parametrize(
    "accounts",
    [
        [Sample(name="heard", groups=40, events=9), Sample(name="other", seed=3, groups=40)],
        [Sample(name="polls-only", seed=5, groups=40, events=9, stream_gaps=None)],
        [
            # No event was heard for some of the triggers that the flag shows.
            Sample(name="partly", seed=2, groups=40, events=9, stream_gaps=((60, 5, "overflow"),)),
            Sample(name="silent", hours=30, stream_gaps=None),
        ],
    ],
    ids=["heard", "polls only", "partly heard"],
)
def test_the_counts_are_those_of_the_views(database_url: str, accounts: list[Sample]) -> None:
    write_samples(database_url, accounts)
    with read_only_transaction(database_url) as connection:
        for hours in (72, 24, 6):
            found = activity_since(connection, UNTIL - timedelta(hours=hours))
            expected = counted(connection, hours)
            assert {name: asdict(each) for name, each in found.items()} == expected
        assert sum(each.triggers for each in found.values())


@pytest.mark.parametrize(
    ("occurred", "received", "triggers"),
    [
        (30.0, 30.1, 1),  # between the polls, by both clocks
        (-20.0, 30.1, 1),  # the exchange's clock is behind
        (59.5, 62.0, 1),  # received after the poll that shows it, and listening never stopped
        (-400.0, -390.0, 2),  # explains nothing: it was received long before both polls
    ],
)
def test_a_change_of_the_flag_counts_unless_an_event_explains_it(
    recorder: Recorder, occurred: float, received: float, triggers: int
) -> None:
    recorder.ok(-600, [OFF])
    recorder.ok(0, [OFF])
    event = OrderGroupEvent(
        order_group_id="a",
        event_type="triggered",
        event_at=recorder.at(occurred),
        received_at=recorder.at(received),
    )
    StreamStore(recorder.database).write(
        StreamBatch(
            account="main",
            own_groups_only=False,
            since=recorder.at(-600),
            until=recorder.at(90),
            events=(event,),
        )
    )
    recorder.ok(60, [ON])
    with read_only_transaction(recorder.url) as connection:
        assert activity_since(connection, recorder.at(-600))["main"].triggers == triggers
