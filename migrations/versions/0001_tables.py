"""The tables and their indexes.

Every revision is self-contained: a later change of `exporter.history.schema` must not change what
this one did.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything in an empty database."""
    on_postgres = op.get_bind().dialect.name == "postgresql"
    instant: sa.types.TypeEngine[Any] = (
        postgresql.TIMESTAMP(timezone=True) if on_postgres else sa.Text()
    )
    decimal = sa.Numeric() if on_postgres else sa.Text()
    json = postgresql.JSON() if on_postgres else sa.Text()
    serial = sa.BigInteger() if on_postgres else sa.Integer()

    op.create_table(
        "accounts",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("observed_at", instant),
        sa.Column("last_poll_id", sa.BigInteger()),
        sa.Column("digest", sa.Text()),
        sa.Column("group_count", sa.Integer()),
        sa.Column("coverage_started_at", instant),
        sa.Column("failed_polls", sa.Integer(), nullable=False),
        sa.Column("refused_polls", sa.Integer(), nullable=False),
        sa.Column("polled_at", instant),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_until", instant),
    )
    op.create_table(
        "gap_outcomes",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("outcome", sa.Text(), primary_key=True),
        sa.Column("polls", sa.Integer(), nullable=False),
        sa.Column("last_started_at", instant, nullable=False),
    )
    op.create_table(
        "polls",
        sa.Column("id", serial, primary_key=True, autoincrement=True),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("started_at", instant, nullable=False),
        sa.Column("finished_at", instant, nullable=False),
        sa.Column("observed_at", instant),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("http_status", sa.Integer()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_details", sa.Text()),
        sa.Column("error_service", sa.Text()),
        sa.Column("clock_skew_ms", sa.BigInteger()),
        sa.Column("group_count", sa.Integer()),
        sa.Column("added", sa.Integer()),
        sa.Column("changed", sa.Integer()),
        sa.Column("removed", sa.Integer()),
        sa.Column("exporter_version", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("polls_account_started_at", "polls", ["account", "started_at"])
    op.create_table(
        "coverage",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("started_at", instant, primary_key=True),
        sa.Column("ended_at", instant, nullable=False),
        sa.Column("polls", sa.BigInteger(), nullable=False),
        sa.Column("gap_started_at", instant),
        sa.Column("gap_cause", sa.Text()),
    )
    op.create_table(
        "order_group_snapshots",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("order_group_id", sa.Text(), primary_key=True),
        sa.Column("valid_from", instant, primary_key=True),
        sa.Column("is_auto_cancel_enabled", sa.Boolean(), nullable=False),
        sa.Column("contracts_limit", decimal),
        sa.Column("exchange_index", sa.BigInteger()),
        sa.Column("extra", json),
        sa.Column("not_before", instant),
        sa.Column("missing_since", instant),
        sa.Column("last_seen_at", instant),
        sa.Column("valid_to", instant),
        sa.Column("end_reason", sa.Text()),
        sa.Column("first_poll_id", sa.BigInteger(), nullable=False),
        sa.Column("last_poll_id", sa.BigInteger()),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "order_group_snapshots_open",
        "order_group_snapshots",
        ["account", "order_group_id"],
        unique=True,
        sqlite_where=sa.text("valid_to IS NULL"),
        postgresql_where=sa.text("valid_to IS NULL"),
    )
    op.create_index("order_group_snapshots_valid_from", "order_group_snapshots", ["valid_from"])
    op.create_index("order_group_snapshots_valid_to", "order_group_snapshots", ["valid_to"])
