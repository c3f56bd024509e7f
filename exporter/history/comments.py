"""Write the dictionary into the database: into its table, and into Postgres' own comments."""

from sqlalchemy import Connection, MetaData, delete, insert

from exporter.history import dictionary
from exporter.history.schema import data_dictionary


def describe(connection: Connection) -> None:
    """Describe every table, view and column as this version knows them.

    Args:
        connection: in a transaction, with the newest schema.
    """
    lines = [line for name in dictionary.OBJECTS for line in dictionary.lines(name)]
    connection.execute(delete(data_dictionary))
    connection.execute(
        insert(data_dictionary),
        [
            {
                "object_name": line.object,
                "column_name": line.column,
                "meaning": line.meaning,
                "unit": line.unit,
                "nullable": line.nullable,
                "source": line.source,
            }
            for line in lines
        ],
    )
    if connection.dialect.name == "sqlite":  # which has no comments
        return
    for line in lines:
        if line.column:
            what = f"COLUMN {line.object}.{line.column}"
        else:
            what = f"{'VIEW' if line.meaning.startswith('View:') else 'TABLE'} {line.object}"
        # A statement of this kind takes no parameters.
        text = line.comment.replace("'", "''").replace("%", "%%")
        connection.exec_driver_sql(f"COMMENT ON {what} IS '{text}'")


def add_comments(metadata: MetaData) -> None:
    """Add each table's and column's comment to its definition, for Alembic to compare.

    The definitions themselves have no comments, because every start would pay for them.
    """
    for table in metadata.tables.values():
        for line in dictionary.lines(table.name):
            described = table.c[line.column] if line.column else table
            described.comment = line.comment
