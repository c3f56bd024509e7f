"""Count the states of an account, in the way that suits its database."""

from collections.abc import Collection

from sqlalchemy import Connection

from exporter.report import tally_postgres, tally_sqlite
from exporter.report.span import Span
from exporter.report.tally import Tally


def tally_of(connection: Connection, account: str, span: Span, named: Collection[str]) -> Tally:
    """Count the states of an account over a span.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        span: what the report is about.
        named: its groups with events.
    """
    if connection.dialect.name == "sqlite":
        return tally_sqlite.tally(connection, account, span, frozenset(named))
    return tally_postgres.tally(connection, account, span)
