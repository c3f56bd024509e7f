"""The views that people read.

The only difference between the databases is how two instants become seconds.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _seconds(start: str, end: str) -> str:
    """Return SQL for the seconds between two instants, exact to the microsecond."""
    if op.get_bind().dialect.name == "postgresql":
        return f"CAST(EXTRACT(EPOCH FROM ({end} - {start})) AS double precision)"
    # julianday() is exact only to some 40 microseconds.
    return (
        f"ROUND(strftime('%s', {end}) - strftime('%s', {start})"
        f" + (substr({end}, 21, 6) - substr({start}, 21, 6)) / 1000000.0, 6)"
    )


def upgrade() -> None:
    """Create the views."""
    op.execute(
        """
        CREATE VIEW order_groups_current AS
        SELECT s.account, s.order_group_id, s.is_auto_cancel_enabled, s.contracts_limit,
               s.exchange_index, s.extra,
               (SELECT MIN(f.valid_from) FROM order_group_snapshots f
                WHERE f.account = s.account AND f.order_group_id = s.order_group_id)
                   AS first_seen_at,
               COALESCE(s.last_seen_at, a.observed_at) AS last_seen_at,
               s.valid_from AS last_changed_at,
               s.missing_since
        FROM order_group_snapshots s
        JOIN accounts a ON a.account = s.account
        WHERE s.valid_to IS NULL
        """
    )
    op.execute(
        f"""
        CREATE VIEW order_group_history AS
        SELECT s.account, s.order_group_id, s.valid_from, s.valid_to,
               s.is_auto_cancel_enabled, s.contracts_limit, s.exchange_index, s.extra,
               s.not_before, s.missing_since,
               COALESCE(s.last_seen_at, a.observed_at) AS last_seen_at,
               s.end_reason,
               {_seconds("s.valid_from", "COALESCE(s.valid_to, a.observed_at)")}
                   AS duration_seconds,
               s.first_poll_id,
               COALESCE(s.last_poll_id, a.last_poll_id) AS last_poll_id
        FROM order_group_snapshots s
        JOIN accounts a ON a.account = s.account
        """
    )
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
        UNION ALL
        SELECT account, order_group_id, valid_to, last_seen_at, 'disappeared',
               is_auto_cancel_enabled, NULL, contracts_limit, NULL, exchange_index, NULL,
               extra, NULL
        FROM order_group_snapshots
        WHERE end_reason = 'removed'
        """
    )
    op.execute(
        f"""
        CREATE VIEW coverage_gaps AS
        SELECT account, gap_started_at AS gap_start, started_at AS gap_end,
               {_seconds("gap_started_at", "started_at")} AS seconds,
               gap_cause AS cause
        FROM coverage
        WHERE gap_started_at IS NOT NULL
        """
    )
