"""Find, check and run the migrations.

Alembic takes as long to import as everything else together, so it is imported only when there is
something to migrate.
"""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from exporter.database.database import Database, set_statement_timeout
from exporter.errors import DatabaseSetupError, SchemaError
from exporter.history.dictionary import OBJECTS
from exporter.history.schema import REVISION
from exporter.history.sqlite_files import back_up, file_size, make_private_file
from exporter.resources import shipped

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_log = logging.getLogger(__name__)

# Processes that migrate at the same time take turns on this advisory lock. The number is arbitrary,
# but every version must use the same.
_ADVISORY_LOCK = 0x6B616C736869

# No other program has these two; every revision has them, and a migration leaves none unversioned.
_DISTINCTIVE = {"order_group_snapshots", "coverage"}

# Seconds that a migration waits for another one, or for another session's lock.
_WAIT_SECONDS = 60.0
# No statement of a migration takes this long, unless the server hangs.
_STEP_SECONDS = 3600.0

_SMALLEST_DATABASE = 100  # bytes: SQLite's header


def current_revision(database: Database) -> str | None:
    """Return the revision of the database's schema; None if it has none yet.

    Raises:
        SchemaError: the file is not a database, or the schema is another program's.
        DatabaseError: the database failed.
    """
    path = database.path
    size = None if path is None else file_size(path)
    if size == 0:
        return None
    if size is not None and size < _SMALLEST_DATABASE:
        # SQLite would take it for an empty database.
        raise SchemaError(
            f"database.url: {path} is a file, but not a SQLite database: correct the path"
        )
    with database.transaction() as connection:
        return _revision(connection)


def ensure_current(database: Database, *, auto_migrate: bool) -> None:
    """Make sure that the schema is this version's; migrate it if the configuration allows that.

    Raises:
        SchemaError: the schema is newer, or older and `auto_migrate` is false.
        DatabaseError: the database failed.
    """
    revision = current_revision(database)
    if revision == REVISION:
        database.enable_wal()
        return
    refuse_newer(revision)
    if not auto_migrate:
        raise _outdated(revision, " and database.auto_migrate is false")
    migrate(database)


def require_current(database: Database) -> None:
    """Make sure that the schema is this version's, without migrating it.

    Raises:
        SchemaError: the schema is newer, or older.
        DatabaseError: the database failed.
    """
    revision = current_revision(database)
    refuse_newer(revision)
    if revision != REVISION:
        raise _outdated(revision)


def _outdated(revision: str | None, reason: str = "") -> SchemaError:
    state = "has no tables yet" if revision is None else f"is at revision {revision}"
    return SchemaError(
        f"the database {state}, this version needs {REVISION}{reason and ','}{reason}:"
        " run `kalshi-exporter migrate`"
    )


def migrate(database: Database, *, to: str = REVISION) -> tuple[str | None, Path | None]:
    """Bring the schema to a revision, in one transaction; nothing happens if it is there already.

    Args:
        database: to migrate. A SQLite file that holds a schema is copied beside itself before.
        to: the revision to reach, for tests.

    Returns:
        The revision before, and the path of the copy if one was made.

    Raises:
        SchemaError: the schema is newer than this version or another program's, or the file is
            not a database.
        DatabaseError: the database failed; the schema is as it was.
    """
    before = current_revision(database)
    refuse_newer(before)
    if before == to:
        return before, None

    make_private_file(database.path)
    with database.transaction() as connection:
        _take_turn(connection)
        # Another process may have migrated the database while this one waited for the lock.
        before = _revision(connection)
        refuse_newer(before)
        if before == to:
            return before, None
        # Nobody can write now, so the copy is complete.
        backup = None if before is None else back_up(database, before)
        upgrade(connection, before, to=to)
    database.enable_wal()
    _log.info(
        "the database's schema is now at revision %s",
        to,
        extra={"event": "migrated", "revision_before": before, "backup": backup},
    )
    return before, backup


def upgrade(connection: "Connection", before: str | None, *, to: str = REVISION) -> None:
    """Run the migrations on a connection; whether they stay is the caller's decision.

    Args:
        connection: in a transaction.
        before: the schema's revision; None if it has none yet.
        to: the revision to reach.

    Raises:
        SchemaError: tables of our names are another program's.
    """
    from alembic import command  # noqa: PLC0415  # only when there is something to migrate

    if before is None:
        _refuse_foreign_tables(connection)
    set_statement_timeout(connection, seconds=_STEP_SECONDS)
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    configuration.attributes["schema"] = _schema(connection)
    command.upgrade(configuration, to)


def _take_turn(connection: "Connection") -> None:
    """Wait until nobody else migrates, with a time-out; SQLite's write lock suffices there."""
    if connection.dialect.name == "sqlite":
        return
    set_statement_timeout(connection, seconds=_WAIT_SECONDS)
    connection.execute(
        text("SELECT set_config('lock_timeout', :wait, true)"),
        {"wait": f"{_WAIT_SECONDS * 1000:.0f}ms"},
    )
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _configuration() -> "Config":
    from alembic.config import Config  # noqa: PLC0415  # only when there is something to migrate

    configuration = Config()
    configuration.set_main_option("script_location", str(shipped("migrations")).replace("%", "%%"))
    return configuration


def _revision(connection: "Connection") -> str | None:
    if not _has_revision(connection):
        looks_damaged = _taken_names(connection) >= _DISTINCTIVE
        # On Postgres, another process may have migrated the database since the first look.
        if not _has_revision(connection):
            if looks_damaged:
                raise _unversioned("is gone")
            return None
    revisions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if not revisions:
        if _taken_names(connection) >= _DISTINCTIVE:
            raise _unversioned("is empty")
        return None
    # Revisions are numbered from 0001; the table has one name for all who use Alembic.
    if len(revisions) > 1 or not re.fullmatch(r"(?!0000)[0-9]{4}", revisions[0]):
        raise SchemaError(
            f"database.url: the database is another program's, at its revision {revisions[0]}: give"
            " the exporter a database of its own"
        )
    return str(revisions[0])


def _schema(connection: "Connection") -> str | None:
    """Return the schema of the exporter's tables, the first in search_path; None on SQLite.

    Raises:
        DatabaseSetupError: there is none.
    """
    if connection.dialect.name == "sqlite":
        return None
    row = connection.execute(
        text("SELECT current_schema(), current_setting('search_path'), current_user")
    ).one()
    schema, search_path, role = row
    if schema is None:
        raise DatabaseSetupError(
            f"database: search_path is {search_path or 'empty'}, and no schema in it exists and may"
            f" be used: CREATE SCHEMA, or GRANT USAGE, CREATE ON SCHEMA to {role}, or correct"
            " search_path"
        )
    return str(schema)


def _taken_names(connection: "Connection") -> set[str]:
    schema = _schema(connection)
    found = inspect(connection)
    return {*found.get_table_names(schema), *found.get_view_names(schema)} & {*OBJECTS}


def _has_revision(connection: "Connection") -> bool:
    # Only this schema counts: another one in search_path may belong to another program.
    return inspect(connection).has_table("alembic_version", schema=_schema(connection))


def _unversioned(state: str) -> DatabaseSetupError:
    """Return the error that says the state of the table alembic_version, such as "is gone"."""
    return DatabaseSetupError(
        f"database: the table alembic_version, which holds the schema's revision, {state}: restore"
        " a backup, or put back the table and its row"
    )


def _refuse_foreign_tables(connection: "Connection") -> None:
    """Refuse to create the tables if another program has tables of the same names."""
    taken = _taken_names(connection)
    if taken:
        is_file = connection.dialect.name == "sqlite"
        remedy = "a database" if is_file else "a database, or a schema in search_path,"
        raise SchemaError(
            "database.url: the database has tables of another program's,"
            f" {', '.join(sorted(taken))}: give the exporter {remedy} of its own"
        )


def require_ownership(connection: "Connection") -> None:
    """Check, on Postgres, that the role has the rights that a migration of an older schema needs.

    Raises:
        DatabaseSetupError: the role does not own all tables and views, or may not create more.
    """
    if connection.dialect.name == "sqlite":
        return
    schema = _schema(connection)
    role, may_create = connection.execute(
        text("SELECT current_user, has_schema_privilege(current_schema(), 'CREATE')")
    ).one()
    if not may_create:
        raise DatabaseSetupError(
            f"database: permission denied for schema {schema}: GRANT CREATE ON SCHEMA {schema} TO"
            f" {role}"
        )
    foreign = connection.execute(
        text(
            "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c"
            " WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p', 'v')"
            " AND c.relname = ANY(:names) AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1"
        ),
        {"schema": f'"{schema}"', "names": [*OBJECTS, "alembic_version"]},
    ).first()
    if foreign is not None:
        raise DatabaseSetupError(
            f"database: {foreign[0]} belongs to {foreign[1]}, and only the owner may migrate it:"
            f" let {foreign[1]} run `kalshi-exporter migrate`, or make {role} the owner"
        )


def refuse_newer(revision: str | None) -> None:
    """Refuse a schema that only a newer version of this program knows.

    Raises:
        SchemaError: the schema is newer.
    """
    # Revisions are numbered, so that an older version recognizes a newer schema.
    if revision is not None and revision > REVISION:
        raise SchemaError(
            f"the database's schema is at revision {revision}, newer than {REVISION}, the newest"
            " that this version knows: install the kalshi-exporter that made it, or a newer one"
        )
