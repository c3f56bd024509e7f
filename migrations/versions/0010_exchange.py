"""A column for the exchange of an account's history, so that no history mixes two exchanges."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the exporter fills it in when it next starts."""
    op.add_column("accounts", sa.Column("exchange", sa.Text()))
