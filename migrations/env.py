"""How Alembic runs the revisions: on the connection that the exporter hands over, or for writers.

`exporter/history/migrate.py` passes a connection with a transaction begun, so that a revision is
applied whole or not at all, on SQLite too. Developers who call `alembic revision` have none, and
need none.
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
        # Another schema in search_path may have a table of that name too.
        version_table_schema=context.config.attributes.get("schema"),
        # SQLite's DDL is transactional once BEGIN is sent, which the exporter's engine does.
        transactional_ddl=True,
    )
    context.run_migrations()
    # Not a revision's task: what this version says of the database holds for its newest schema.
    if context.get_context().get_current_revision() == REVISION:
        describe(connection)
