"""The index on `valid_to` leaves out open states, which have their own index.

A first poll may open 100,000 states, and now writes nothing into this index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the index."""
    op.drop_index("order_group_snapshots_valid_to", "order_group_snapshots")
    op.create_index(
        "order_group_snapshots_valid_to",
        "order_group_snapshots",
        ["valid_to"],
        sqlite_where=sa.text("valid_to IS NOT NULL"),
        postgresql_where=sa.text("valid_to IS NOT NULL"),
    )
