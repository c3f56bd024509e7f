"""A column for the end of a pause that the exchange asked all daemons of an account to keep."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    instant = sa.Text() if on_sqlite else sa.TIMESTAMP(timezone=True)
    op.add_column("accounts", sa.Column("rest_until", instant))
