"""A column for how each state began, and a smaller index on SQLite, which holds only appearances.

Other indexes already find all other states: a change by the end of the previous state, and a state
of an account's first observation by the first stretch of coverage.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SNAPSHOTS = "order_group_snapshots"
_AS_IN_0005 = "100000 5000 1"

# Rows of older exporters, or inserted by hand, have no reason, and stay in the index.
_MAY_HAVE_APPEARED = "COALESCE(begin_reason, 'appeared') = 'appeared'"


def upgrade() -> None:
    """Add the column, change SQLite's index, and make the view of changes use both."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    op.add_column(_SNAPSHOTS, sa.Column("begin_reason", sa.Text()))
    first_stretch = sa.text("gap_started_at IS NULL")
    op.create_index(
        "coverage_first",
        "coverage",
        ["started_at"],
        sqlite_where=first_stretch,
        postgresql_where=first_stretch,
    )
    if on_sqlite:
        op.drop_index("order_group_snapshots_valid_from", _SNAPSHOTS)
        op.create_index(
            "order_group_snapshots_valid_from",
            _SNAPSHOTS,
            ["valid_from"],
            sqlite_where=sa.text(_MAY_HAVE_APPEARED),
        )
        _tell_planner()
        op.execute("DROP VIEW order_group_changes")
    # Postgres replaces the view in place, because other views may depend on it.
    op.execute(f"CREATE {'' if on_sqlite else 'OR REPLACE'} VIEW order_group_changes AS {_CHANGES}")


def _tell_planner() -> None:
    """Write SQLite's statistics as 0005 did, or run ANALYZE again if it has been run."""
    counts = "SELECT stat FROM sqlite_stat1 WHERE idx = 'order_group_snapshots_open'"
    if op.get_bind().execute(sa.text(counts)).scalar() != _AS_IN_0005:
        op.execute("ANALYZE order_group_snapshots_valid_from")
        return
    op.execute(
        "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES"
        " ('order_group_snapshots', 'order_group_snapshots_valid_from', '100000 10')"
    )
    op.execute("ANALYZE sqlite_master")  # reloads the statistics


_NEW = """
    NULL AS old_is_auto_cancel_enabled, s.is_auto_cancel_enabled AS new_is_auto_cancel_enabled,
    NULL AS old_contracts_limit, s.contracts_limit AS new_contracts_limit,
    NULL AS old_exchange_index, s.exchange_index AS new_exchange_index,
    NULL AS old_extra, s.extra AS new_extra
"""

# CROSS JOIN fixes SQLite's join order: from the few accounts that began in a span to their states.
_CHANGES = f"""
SELECT p.account, p.order_group_id, p.valid_to AS changed_at, s.not_before, 'changed' AS change,
       p.is_auto_cancel_enabled AS old_is_auto_cancel_enabled,
       s.is_auto_cancel_enabled AS new_is_auto_cancel_enabled,
       p.contracts_limit AS old_contracts_limit, s.contracts_limit AS new_contracts_limit,
       p.exchange_index AS old_exchange_index, s.exchange_index AS new_exchange_index,
       p.extra AS old_extra, s.extra AS new_extra
FROM order_group_snapshots p
JOIN order_group_snapshots s
  ON s.account = p.account AND s.order_group_id = p.order_group_id AND s.valid_from = p.valid_to
WHERE p.end_reason = 'changed'
UNION ALL
SELECT s.account, s.order_group_id, s.valid_from, s.not_before, 'appeared', {_NEW}
FROM order_group_snapshots s
WHERE {_MAY_HAVE_APPEARED}
  AND NOT EXISTS (
      SELECT 1 FROM order_group_snapshots p
      WHERE p.account = s.account AND p.order_group_id = s.order_group_id
        AND p.valid_to = s.valid_from AND p.end_reason = 'changed')
UNION ALL
SELECT s.account, s.order_group_id, c.started_at, s.not_before, 'appeared', {_NEW}
FROM coverage c CROSS JOIN order_group_snapshots s
WHERE c.gap_started_at IS NULL
  AND s.account = c.account AND s.valid_from = c.started_at AND s.begin_reason = 'found'
UNION ALL
SELECT account, order_group_id, valid_to, last_seen_at, 'disappeared',
       is_auto_cancel_enabled, NULL, contracts_limit, NULL, exchange_index, NULL, extra, NULL
FROM order_group_snapshots
WHERE end_reason = 'removed'
"""
