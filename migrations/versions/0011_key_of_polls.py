"""A key of `polls` that begins with the account, so that Postgres can partition the table by it.

The key replaces the index on account and start: one index instead of two, and a third smaller.
SQLite keeps its key, because the id is the table's row number there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KEY = ["account", "started_at", "id"]


def upgrade() -> None:
    """Change the key, unless a partitioned table already has one that begins with the account."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return
    there = sa.inspect(connection)
    key = there.get_pk_constraint("polls")
    columns = key["constrained_columns"]
    if columns[:1] != ["account"]:
        if key["name"] is not None:
            op.drop_constraint(key["name"], "polls", type_="primary")
        op.create_primary_key("polls_pkey", "polls", _KEY)
        columns = _KEY
    names = {index["name"] for index in there.get_indexes("polls")}
    if columns == _KEY and "polls_account_started_at" in names:
        op.drop_index("polls_account_started_at", "polls")
