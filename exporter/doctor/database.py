"""Check the database: can it be reached, is its schema right, can it be written?"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from exporter.config.model import Configuration
from exporter.doctor.filesystem import network_filesystem_of
from exporter.doctor.finding import Finding, failed
from exporter.doctor.rehearsal import RehearsalDatabase, rehearse, try_directory
from exporter.errors import DatabaseError, DatabaseSetupError, Exit, ExporterError
from exporter.history.exchange import settle
from exporter.history.migrate import current_revision, refuse_newer, require_ownership, upgrade
from exporter.history.schema import REVISION
from exporter.permissions import explain_directory, is_missing, real_path


def check_database(configuration: Configuration) -> Iterator[Finding]:
    """Check the configured database."""
    subject = "database"
    try:
        with closing(RehearsalDatabase(configuration.database.url)) as database:
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


def _schema(configuration: Configuration, database: RehearsalDatabase) -> Finding:
    """Check the database's schema, and whether it can be written.

    Raises:
        ExporterError: the database cannot be used.
    """
    where = configuration.database.safe_url
    path = database.path
    if path is not None:
        _try_directory(path)
    revision = current_revision(database)
    refuse_newer(revision)
    if revision == REVISION:
        with database.rehearsal() as connection:
            settle(database, {each.name: each.exchange for each in configuration.accounts})
            rehearse(database, connection)
        return _finding(f"{where}; schema {revision}; writable")
    if not configuration.database.auto_migrate:
        return Finding(
            subject="database",
            text=f"{where}; the schema is not at revision {REVISION}:"
            " run `kalshi-exporter migrate`",
            exit_code=Exit.CONFIGURATION,
        )
    if path is not None and is_missing(path):
        return _finding(f"{path} does not exist; the first poll makes it")
    if revision is None:
        with database.rehearsal() as connection:
            upgrade(connection, None)
            rehearse(database, connection)
        return _finding(f"{where}; no tables yet: the first poll migrates it to {REVISION}")
    with database.transaction() as connection:
        require_ownership(connection)
    return _finding(f"{where}; schema {revision}: the first poll migrates it to {REVISION}")


def _finding(text: str) -> Finding:
    return Finding(subject="database", text=text)


def _try_directory(path: Path) -> None:
    """Write a file beside SQLite's file, as SQLite does for its write-ahead log.

    Raises:
        DatabaseError: the directory cannot be written.
    """
    directory = real_path(path).parent
    try:
        try_directory(directory)
    except OSError as error:
        reason = explain_directory(directory, write=True)
        if reason is not None:
            raise DatabaseSetupError(f"{path}: {reason}") from error
        raise DatabaseError(f"{directory}: {error.strerror}: make room there") from error
