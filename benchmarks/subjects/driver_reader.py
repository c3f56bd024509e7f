"""Read with the drivers the rows that a report, or the status of all accounts, is made from."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from benchmarks.place import Place
from exporter.history.schema import to_text

_REPORT = (
    (
        "SELECT order_group_id, valid_from, valid_to, end_reason, not_before,"
        " is_auto_cancel_enabled, contracts_limit, exchange_index, extra"
        " FROM order_group_snapshots WHERE account = 'main'"
    ),
    "SELECT started_at, ended_at, gap_cause FROM coverage WHERE account = 'main'",
    "SELECT started_at, outcome FROM polls WHERE account = 'main'",
)
_POLL = "p.started_at, p.outcome, p.error_code, p.error_message"
_LATEST = "FROM polls q WHERE q.account = a.account ORDER BY q.started_at DESC, q.id DESC LIMIT 1"
_STATUS = (
    "SELECT account, observed_at, stream_ended_at, stream_end_cause FROM accounts",
    (
        "SELECT account, COUNT(*), COUNT(missing_since) FROM order_group_snapshots"
        " WHERE valid_to IS NULL GROUP BY account"
    ),
    # The states that ended, each with the one that followed: what changed, and which flags.
    (
        "SELECT p.account, p.order_group_id, p.valid_to, p.end_reason, p.is_auto_cancel_enabled,"
        " s.not_before, s.is_auto_cancel_enabled FROM order_group_snapshots p"
        " LEFT JOIN order_group_snapshots s ON s.account = p.account"
        " AND s.order_group_id = p.order_group_id AND s.valid_from = p.valid_to"
        " WHERE p.valid_to >= '{day}'"
    ),
    (
        "SELECT account, order_group_id, valid_from FROM order_group_snapshots"
        " WHERE valid_from >= '{day}' AND COALESCE(begin_reason, 'appeared') = 'appeared'"
    ),
    "SELECT account, started_at, ended_at, last_event_at FROM stream_coverage WHERE is_latest",
    (
        "SELECT account, order_group_id, event_type, event_at, received_at FROM order_group_events"
        " WHERE event_at >= '{day}'"
    ),
)
_STATUS_ON_SQLITE = (
    *_STATUS,
    f"SELECT a.account, {_POLL} FROM accounts a JOIN polls p ON p.id = (SELECT q.id {_LATEST})",
)
_STATUS_ON_POSTGRES = (
    *_STATUS,
    f"SELECT a.account, {_POLL} FROM accounts a CROSS JOIN LATERAL (SELECT q.* {_LATEST}) p",
)


class Driver:
    """Reads all rows of some queries, over a new connection each time."""

    def __init__(self, place: Place, queries: Sequence[str]) -> None:
        self._place = place
        self._queries = queries

    def poll(self) -> dict[str, float]:
        """Run each query once."""
        connection: Any
        if self._place.postgres is None:
            connection = sqlite3.connect(self._place.sqlite_file)
        else:
            import psycopg

            connection = psycopg.connect(self._place.postgres)
        rows = 0
        for number, query in enumerate(self._queries):
            # Rows are fetched in batches, because the exporter does not hold all of them either.
            if self._place.postgres is None:
                cursor = connection.execute(query)
            else:
                cursor = connection.cursor(name=f"reader_{number}")
                cursor.itersize = 10_000
                cursor.execute(query)
            for _ in cursor:
                rows += 1
        connection.close()
        return {"rows": rows}


@contextmanager
def subject(place: Place) -> Iterator[Driver]:
    """Yield the reader that `detail` names: "report INSTANT" or "status INSTANT"."""
    what, now = place.detail.split()
    day = to_text(datetime.fromisoformat(now) - timedelta(days=1))
    of_status = _STATUS_ON_SQLITE if place.postgres is None else _STATUS_ON_POSTGRES
    queries = _REPORT if what == "report" else [query.format(day=day) for query in of_status]
    yield Driver(place, queries)
