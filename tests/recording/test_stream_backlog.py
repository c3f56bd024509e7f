"""Test that several processes may write what waits in one spool."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

from sqlalchemy import text

from exporter.causes import StreamGapCause
from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import Instant
from exporter.history.stream_store import StreamStore, StreamWritten
from exporter.model import OrderGroupEvent, StreamBatch
from exporter.recording.stream_backlog import StreamTarget
from exporter.spool.spool import Spool
from exporter.spool.stream import StreamSpool

START = datetime(2026, 11, 26, tzinfo=UTC)


def _batch(
    *, until: float, event: float, cause: StreamGapCause | None = None, claimed: float | None = None
) -> StreamBatch:
    """Return a batch of a connection that subscribed at the start; times in seconds after it."""
    at = START + timedelta(seconds=event)
    return StreamBatch(
        account="main",
        own_groups_only=False,
        since=START,
        until=START + timedelta(seconds=until),
        events=(
            OrderGroupEvent(
                order_group_id="a", event_type="triggered", event_at=at, received_at=at
            ),
        ),
        cause=cause,
        claimed_until=None if claimed is None else START + timedelta(seconds=claimed),
    )


class _StoreOfASlowProcess(StreamStore):
    """A store whose first batch is written after another process has drained the spool."""

    def __init__(self, database: Database, drain: Callable[[], object]) -> None:
        super().__init__(database)
        self._drain: Callable[[], object] | None = drain

    def write(
        self, batch: StreamBatch, *, still_waits: Callable[[], bool] | None = None
    ) -> StreamWritten:
        if (drain := self._drain) is not None:
            self._drain = None
            drain()
        return super().write(batch, still_waits=still_waits)


def test_a_slow_process_does_not_claim_again_what_another_one_took_back(
    tmp_path: Path, empty_database: Database
) -> None:
    migrate(empty_database)
    spool = StreamSpool(Spool(tmp_path, 2**20, database="here"))
    spool.put(_batch(until=10, event=9))
    # A message after the fifth second was lost, which only the next one showed.
    spool.put(_batch(until=5, event=4, cause="lost_messages", claimed=10))

    quick = StreamTarget(store=StreamStore(empty_database), spool=spool, database="here")
    store = _StoreOfASlowProcess(empty_database, lambda: quick.drain("main", inf))
    slow = StreamTarget(
        store=store, spool=StreamSpool(Spool(tmp_path, 2**20, database="here")), database="here"
    )
    assert slow.drain("main", inf)

    with empty_database.transaction() as connection:
        lengths = [
            ended_at - started_at
            for started_at, ended_at in connection.execute(
                text("SELECT started_at, ended_at FROM stream_coverage").columns(
                    started_at=Instant, ended_at=Instant
                )
            )
        ]
    assert lengths == [timedelta(seconds=5)]
