"""Looks at the database: can it be reached, is its schema right, can it be written?"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import text

from exporter import wiring
from exporter.config.model import Configuration
from exporter.database.database import Database
from exporter.doctor.filesystem import network_filesystem_of
from exporter.doctor.finding import Finding, failed
from exporter.errors import Exit, ExporterError
from exporter.history.migrate import current_revision, refuse_newer
from exporter.history.schema import REVISION


def check_database(configuration: Configuration) -> Iterator[Finding]:
    """Look at the configured database."""
    subject = "database"
    try:
        with closing(wiring.database_of(configuration)) as database:
            yield _schema(configuration, database)
            network = None if database.path is None else network_filesystem_of(database.path)
    except ExporterError as error:
        yield failed(subject, error)
        return
    if network is not None:
        yield Finding(
            subject=subject,
            text=f"{database.path} lies on a network file system, {network}, where SQLite cannot"
            " rely on locks: put it on a disk of this machine, or use Postgres",
            doubtful=True,
        )


def _schema(configuration: Configuration, database: Database) -> Finding:
    """Look at the database's schema, and whether it can be written.

    Raises:
        ExporterError: it cannot be used.
    """
    subject = "database"
    where = configuration.database.safe_url
    if database.path is not None and not database.path.exists():
        return _new_file(database.path)
    revision = current_revision(database)
    refuse_newer(revision)
    if revision == REVISION:
        _try_to_write(database)
        return Finding(subject=subject, text=f"{where}; schema {revision}; writable")
    if configuration.database.auto_migrate:
        state = "no tables yet" if revision is None else f"schema {revision}"
        return Finding(
            subject=subject, text=f"{where}; {state}: the first poll migrates it to {REVISION}"
        )
    return Finding(
        subject=subject,
        text=f"{where}; the schema is not at revision {REVISION}: run `kalshi-exporter migrate`",
        exit_code=Exit.CONFIGURATION,
    )


def _new_file(path: Path) -> Finding:
    if os.access(path.parent, os.W_OK):
        return Finding(subject="database", text=f"{path} does not exist; the first poll makes it")
    return Finding(
        subject="database",
        text=f"{path} does not exist, and {path.parent} is not writable: change its owner or mode",
        exit_code=Exit.DATABASE,
    )


def _try_to_write(database: Database) -> None:
    """Take the path of a write without writing.

    Raises:
        DatabaseError: it is read-only, locked or away.
    """
    with database.transaction() as connection:
        connection.execute(text("UPDATE accounts SET version = version WHERE account IS NULL"))
