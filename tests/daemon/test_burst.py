"""Polls keep their grid while a kill switch triggers all groups of an account at once."""

from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.demo.exchange import Exchange
from tests.support.daemons import PATIENCE, daemons, rows, wait_until

if TYPE_CHECKING:
    from tests.conftest import WriteConfig

_EVENTS = 100_000  # as many groups as an account may have


def test_a_burst_of_events_delays_no_poll_by_an_interval(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    channel = exchange.channel(key_id)
    with daemons(tmp_path) as start:
        daemon = start(
            write_config(database_url=sqlite_url, poll={"interval": "1s"}, stream={"enabled": True})
        )
        channel.wait_for_subscribers(1, seconds=PATIENCE)
        wait_until(lambda: daemon.events.count("poll_ok") >= 3, "polls")
        for number in range(_EVENTS):
            channel.tell("triggered", f"group-{number}")
        wait_until(
            lambda: (
                rows(sqlite_url, "SELECT COUNT(*) AS n FROM order_group_events")[0]["n"] == _EVENTS
            ),
            "all events",
        )
        assert daemon.stop() == 0
    assert not {"stream_disconnected", "events_lost"} & set(daemon.events)
    starts = [
        datetime.fromisoformat(row["started_at"])
        for row in rows(sqlite_url, "SELECT started_at FROM polls ORDER BY started_at")
    ]
    gaps = [(after - before).total_seconds() for before, after in pairwise(starts[2:])]
    assert max(gaps) < 2.0  # an interval, and a delay of another
