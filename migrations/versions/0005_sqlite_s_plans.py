"""Statistics for SQLite's planner, which does not collect any by itself.

Without them it assumes ten rows per account, and reads an account's whole history to find its open
states, at every poll, or a day's changes. Postgres collects statistics by itself.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SNAPSHOTS = "order_group_snapshots"

# These are in ANALYZE's form: the rows of an index, then how many share its first column, its first
# two, and so on. They describe a long history; the ratios matter, not the numbers. With 20
# accounts, an account is less selective than a span with two ends, but more than one with one end.
_STATISTICS = {
    _SNAPSHOTS: "1000000 50000 10 1",  # the primary key
    "order_group_snapshots_open": "100000 5000 1",
    "order_group_snapshots_valid_from": "1000000 10",
    "order_group_snapshots_valid_to": "900000 10",
}


def upgrade() -> None:
    """Change SQLite's index and view, and write statistics unless ANALYZE has already run."""
    if op.get_bind().dialect.name != "sqlite":
        return
    # Only the view of changes uses this index, by repeating a condition that every row meets.
    # Otherwise SQLite would use it for "as of an instant" too and look up each row in the table,
    # which takes ten times as long as a scan of the table.
    op.drop_index("order_group_snapshots_valid_from", _SNAPSHOTS)
    op.create_index(
        "order_group_snapshots_valid_from",
        _SNAPSHOTS,
        ["valid_from"],
        sqlite_where=sa.text("first_poll_id > 0"),
    )
    op.execute("DROP VIEW order_group_changes")
    op.execute(
        """
        CREATE VIEW order_group_changes AS
        SELECT s.account, s.order_group_id, s.valid_from AS changed_at, s.not_before,
               CASE WHEN p.account IS NULL THEN 'appeared' ELSE 'changed' END AS change,
               p.is_auto_cancel_enabled AS old_is_auto_cancel_enabled,
               s.is_auto_cancel_enabled AS new_is_auto_cancel_enabled,
               p.contracts_limit AS old_contracts_limit,
               s.contracts_limit AS new_contracts_limit,
               p.exchange_index AS old_exchange_index,
               s.exchange_index AS new_exchange_index,
               p.extra AS old_extra,
               s.extra AS new_extra
        FROM order_group_snapshots s
        LEFT JOIN order_group_snapshots p
               ON p.account = s.account AND p.order_group_id = s.order_group_id
              AND p.valid_to = s.valid_from AND p.end_reason = 'changed'
        WHERE s.first_poll_id > 0
        UNION ALL
        SELECT account, order_group_id, valid_to, last_seen_at, 'disappeared',
               is_auto_cancel_enabled, NULL, contracts_limit, NULL, exchange_index, NULL,
               extra, NULL
        FROM order_group_snapshots
        WHERE end_reason = 'removed'
        """
    )
    op.execute("ANALYZE sqlite_master")  # creates the table of statistics without counting
    connection = op.get_bind()
    made = connection.execute(
        sa.text("SELECT COUNT(*) FROM sqlite_stat1 WHERE tbl = :table"), {"table": _SNAPSHOTS}
    ).scalar()
    if made:
        return
    for index, counts in _STATISTICS.items():
        connection.execute(
            sa.text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (:table, :index, :counts)"),
            {"table": _SNAPSHOTS, "index": index, "counts": counts},
        )
    op.execute("ANALYZE sqlite_master")  # reloads the statistics
