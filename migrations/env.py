"""Run the revisions, as Alembic asks, on the connection that the exporter passes.

`exporter/history/migrate.py` passes a connection with a transaction begun, so that a revision is
applied whole or not at all, on SQLite too. `alembic revision`, which developers call, passes none
and needs none.
"""

from alembic import context

from exporter.history.comments import add_comments, describe
from exporter.history.schema import REVISION, metadata

connection = context.config.attributes.get("connection")
if connection is not None:
    add_comments(metadata)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # Another schema in search_path may also have a table of that name.
        version_table_schema=context.config.attributes.get("schema"),
        # SQLite's DDL is transactional after BEGIN, which the exporter's engine sends.
        transactional_ddl=True,
    )
    context.run_migrations()
    # No revision does this, because this version's descriptions fit only its newest schema.
    if context.get_context().get_current_revision() == REVISION:
        describe(connection)
