"""Exact seconds in SQLite's views, and a new name, `cooldown_until`, for a column of the head.

SQLite's `strftime('%s', x)` rounds to milliseconds first, so an instant from .9995 on counted as
the next second: one duration in a thousand was a second off. Postgres was exact.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the column, and replace the views of SQLite that count seconds."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute(_RENAME)
        return
    _rename_on_sqlite()
    op.execute("DROP VIEW order_group_history")
    op.execute(f"CREATE VIEW order_group_history AS {_HISTORY}")
    op.execute("DROP VIEW coverage_gaps")
    op.execute(f"CREATE VIEW coverage_gaps AS {_GAPS}")


_RENAME = "ALTER TABLE accounts RENAME COLUMN rest_until TO cooldown_until"


_OURS = ("order_groups_current", "order_group_history", "order_group_changes", "coverage_gaps")


def _rename_on_sqlite() -> None:
    """Rename the column even if a user's own view is broken, although SQLite would refuse."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type DESC")
    ).all()
    views = {row.name: row.sql for row in rows if row.type == "view" and row.name not in _OURS}
    # Triggers on views are dropped together with them.
    triggers = [row.sql for row in rows if row.type == "trigger" and row.tbl_name in views]
    for name in views:
        connection.exec_driver_sql(f"DROP VIEW {_quoted(name)}")
    connection.exec_driver_sql(_RENAME)
    for sql in (*views.values(), *triggers):
        connection.exec_driver_sql(sql.replace("rest_until", "cooldown_until"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _seconds(start: str, end: str) -> str:
    """Return SQLite's expression for the seconds between two instants.

    The sum of microseconds is an integer, so the only division rounds to the nearest double, which
    is also the result of Postgres for the same instants.
    """
    whole = f"strftime('%s', substr({end}, 1, 19)) - strftime('%s', substr({start}, 1, 19))"
    rest = f"substr({end}, 21, 6) - substr({start}, 21, 6)"
    return f"(({whole}) * 1000000 + {rest}) / 1000000.0"


_HISTORY = f"""
SELECT s.account, s.order_group_id, s.valid_from, s.valid_to,
       s.is_auto_cancel_enabled, s.contracts_limit, s.exchange_index, s.extra,
       s.not_before, s.missing_since,
       COALESCE(s.last_seen_at, a.observed_at) AS last_seen_at,
       s.end_reason,
       {_seconds("s.valid_from", "COALESCE(s.valid_to, a.observed_at)")} AS duration_seconds,
       s.first_poll_id,
       COALESCE(s.last_poll_id, a.last_poll_id) AS last_poll_id
FROM order_group_snapshots s
JOIN accounts a ON a.account = s.account
"""

_GAPS = f"""
SELECT account, gap_started_at AS gap_start, started_at AS gap_end,
       {_seconds("gap_started_at", "started_at")} AS seconds,
       gap_cause AS cause
FROM coverage
WHERE gap_started_at IS NOT NULL
"""
