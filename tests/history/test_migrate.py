"""Migrations work from nothing and from each revision, atomically, and with several at once."""

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, inspect, literal_column, text

from exporter.database.database import Database
from exporter.errors import DatabaseError, DatabaseSetupError, SchemaError
from exporter.history import migrate as migrations
from exporter.history.migrate import current_revision, ensure_current, migrate
from exporter.history.schema import REVISION, metadata

if TYPE_CHECKING:
    from tests.history.conftest import History

REVISIONS = [f"{number:04}" for number in range(1, int(REVISION) + 1)]
BEFORE = REVISIONS[-2]


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """Yield a SQLite database without any tables."""
    database = Database(sqlite_url)
    yield database
    database.close()


def schema_of(database: Database) -> dict[str, Any]:
    """Return the tables, columns, indexes and views of a database."""
    with database.transaction() as connection:
        there = inspect(connection)
        return {
            "columns": {
                name: [(column["name"], str(column["type"])) for column in there.get_columns(name)]
                for name in sorted(there.get_table_names() + there.get_view_names())
            },
            "indexes": {
                name: sorted(str(index["name"]) for index in there.get_indexes(name))
                for name in there.get_table_names()
            },
        }


def execute(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def backups(database: Database) -> list[Path]:
    """Return the backups beside a SQLite file."""
    assert database.path is not None
    return sorted(database.path.parent.glob(f"{database.path.name}.*.backup"))


def test_creates_the_schema_once(empty_database: Database) -> None:
    assert current_revision(empty_database) is None
    assert migrate(empty_database) == (None, None)
    made = schema_of(empty_database)

    assert migrate(empty_database) == (REVISION, None)
    assert current_revision(empty_database) == REVISION
    assert schema_of(empty_database) == made


TABLES = ("accounts", "coverage", "gap_outcomes", "order_group_snapshots", "polls")


@pytest.fixture
def fill(
    tmp_path: Path, history_of: Callable[[Database], "History"]
) -> Iterator[Callable[[Database], None]]:
    """Yield a function that copies a history into a database of an older schema.

    The store cannot do this, because it writes only to the current schema.
    """
    scratch = Database(f"sqlite:///{tmp_path / 'scratch.db'}")
    migrate(scratch)
    history = history_of(scratch)
    history.observe(0, history.group("a", extra='{"x":1e400}'), history.group("b"))
    history.fail(300, "server_error")
    history.observe(600, history.group("a", "2.00"))

    def copy(database: Database) -> None:
        with database.transaction() as connection:
            for name in TABLES:
                there = {column["name"] for column in inspect(connection).get_columns(name)}
                for row in history.rows(name):
                    known = {column: row[column] for column in row if column in there}
                    if known.get("extra") is not None and not database.is_sqlite:
                        known["extra"] = literal_column(f"'{known['extra']}'")
                    connection.execute(metadata.tables[name].insert().values(known))

    yield copy
    scratch.close()


_RENAMED = {("accounts", "rest_until"): "cooldown_until"}


@pytest.mark.parametrize("revision", REVISIONS)
def test_keeps_the_data_of_each_revision_and_shows_it_in_the_views(
    empty_database: Database,
    history_of: Callable[[Database], "History"],
    fill: Callable[[Database], None],
    revision: str,
) -> None:
    migrate(empty_database, to=revision)
    fill(empty_database)
    history = history_of(empty_database)
    before = history.rows_of(*TABLES)

    assert migrate(empty_database)[0] == revision

    after = history.rows_of(*TABLES)
    for name, rows in before.items():
        # Some columns have new names. Columns that the older schema did not have are empty.
        assert after[name] == [
            dict.fromkeys(after[name][0])
            | {_RENAMED.get((name, column), column): value for column, value in row.items()}
            for row in rows
        ]
    assert [row["change"] for row in history.rows("order_group_changes")] == [
        "appeared",
        "changed",
        "appeared",
    ]
    assert history.row("coverage_gaps")["cause"] == "server_error"


def run(*processes: subprocess.Popen[bytes]) -> list[int]:
    """Return the exit codes of processes."""
    return [process.wait(60) for process in processes]


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python script as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
    )


_MIGRATE = """
    import sys
    from exporter.database.database import Database
    from exporter.history.migrate import migrate
    migrate(Database(sys.argv[1]))
"""


@pytest.mark.parametrize("revision", [None, BEFORE])
def test_several_processes_at_once_migrate_once(
    database_url: str, empty_database: Database, revision: str | None
) -> None:
    if revision is not None:
        migrate(empty_database, to=revision)

    assert run(*(start(_MIGRATE, database_url) for _ in range(4))) == [0] * 4

    assert current_revision(empty_database) == REVISION
    if empty_database.is_sqlite:
        assert len(backups(empty_database)) == (revision is not None)


def test_a_migration_between_two_looks_at_the_schema_is_not_mistaken_for_damage(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_names = migrations._taken_names

    def migrate_before_the_second_look(connection: Connection) -> set[str]:
        monkeypatch.undo()
        with closing(Database(postgres_url)) as another:
            migrate(another)
        return taken_names(connection)

    monkeypatch.setattr(migrations, "_taken_names", migrate_before_the_second_look)
    with closing(Database(postgres_url)) as database:
        assert current_revision(database) == REVISION


@pytest.mark.parametrize("revision", [None, *REVISIONS[:-1]])
def test_killed_at_any_statement_it_leaves_the_old_schema_or_the_new(
    tmp_path: Path,
    revision: str | None,
    killed_at_each_statement: Callable[[Path, str, str], list[Path]],
) -> None:
    template = tmp_path / "order_groups"
    template.touch()
    with closing(Database(f"sqlite:///{template}")) as old:
        if revision is not None:
            migrate(old, to=revision)
    with closing(Database(f"sqlite:///{tmp_path / 'new'}")) as new:
        migrate(new)
        migrated = schema_of(new)
    before = dump(template)

    *killed, whole = killed_at_each_statement(
        template,
        "from exporter.history.migrate import migrate\nfrom alembic import command",
        "def act(database): migrate(database)",
    )

    assert len(killed) > 3  # at least one change, the new revision, and the commit
    assert [path for path in killed if dump(path) != before] == []
    # All killed copies are equal, so it is enough to migrate one of them.
    for path in (killed[-1], whole):
        with closing(Database(f"sqlite:///{path}")) as database:
            assert (current_revision(database) == REVISION) == (path == whole)
            migrate(database)
            assert schema_of(database) == migrated


def dump(path: Path) -> list[str]:
    """Return the schema and the rows of a SQLite file as SQL."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


class _Interrupted(BaseException):
    """Interrupts a migration as a signal would."""


def test_interrupted_on_postgres_it_leaves_the_old_schema(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url)
    migrate(database, to=BEFORE)
    before = schema_of(database)

    def interrupt(_connection: Any) -> None:
        raise _Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(database.engine.dialect, "do_commit", interrupt)
        with pytest.raises(_Interrupted):
            migrate(database)
    assert schema_of(database) == before
    migrate(database)
    assert current_revision(database) == REVISION
    database.close()


@pytest.mark.parametrize("act", [migrate, lambda it: ensure_current(it, auto_migrate=True)])
def test_a_newer_schema_is_refused_and_left_as_it_is(
    database: Database, act: Callable[[Database], object]
) -> None:
    execute(database, "UPDATE alembic_version SET version_num = '9999'")
    before = schema_of(database)

    with pytest.raises(SchemaError, match=r"9999, newer than .*install") as caught:
        act(database)

    assert int(caught.value.exit_code) == 78
    assert schema_of(database) == before


@pytest.mark.parametrize("revision", ["1975ea83b712", "0001abc", "0000", "head"])
def test_a_database_that_another_program_migrates_with_alembic_is_refused(
    empty_database: Database, revision: str
) -> None:
    execute(
        empty_database,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{revision}')",
    )
    before = schema_of(empty_database)

    with pytest.raises(SchemaError, match=f"another program's, at its revision {revision}"):
        migrate(empty_database)
    assert schema_of(empty_database) == before


def test_a_database_with_several_heads_belongs_to_another_program(empty_database: Database) -> None:
    execute(
        empty_database,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('0001'), ('0002')",
    )
    with pytest.raises(SchemaError, match="another program's"):
        current_revision(empty_database)


@pytest.mark.parametrize(
    ("statement", "state"),
    [("DROP TABLE alembic_version", "is gone"), ("DELETE FROM alembic_version", "is empty")],
)
def test_tables_that_lost_their_revision_are_recognized_as_ours(
    empty_database: Database, statement: str, state: str
) -> None:
    migrate(empty_database)
    execute(empty_database, statement)
    before = schema_of(empty_database)
    for use in (migrate, current_revision):
        with pytest.raises(DatabaseSetupError, match=f"alembic_version, .*, {state}: restore"):
            use(empty_database)
    assert schema_of(empty_database) == before


def test_foreign_tables_of_the_same_names_are_refused_and_left_as_they_are(
    empty_database: Database,
) -> None:
    execute(empty_database, "CREATE TABLE accounts (iban TEXT)", "CREATE TABLE other (a TEXT)")
    before = schema_of(empty_database)

    with pytest.raises(SchemaError, match="tables of another program's, accounts: give"):
        migrate(empty_database)
    assert schema_of(empty_database) == before


def test_foreign_tables_of_other_names_are_kept(empty_database: Database) -> None:
    execute(empty_database, "CREATE TABLE other (a TEXT)", "INSERT INTO other VALUES ('kept')")
    migrate(empty_database)
    with empty_database.transaction() as connection:
        assert connection.execute(text("SELECT a FROM other")).scalar_one() == "kept"


@pytest.mark.parametrize(
    ("revision", "said"), [(None, "has no tables yet"), (BEFORE, f"is at revision {BEFORE}")]
)
def test_without_auto_migrate_an_older_schema_is_refused_with_a_hint(
    empty_database: Database, revision: str | None, said: str
) -> None:
    if revision is not None:
        migrate(empty_database, to=revision)
    with pytest.raises(SchemaError, match=f"{said}.*run `kalshi-exporter migrate`"):
        ensure_current(empty_database, auto_migrate=False)
    assert current_revision(empty_database) == revision


def test_without_auto_migrate_the_current_schema_is_accepted(database: Database) -> None:
    ensure_current(database, auto_migrate=False)


def test_with_auto_migrate_an_older_schema_is_migrated(empty_database: Database) -> None:
    ensure_current(empty_database, auto_migrate=True)
    assert current_revision(empty_database) == REVISION


def test_a_current_schema_is_recognized_without_alembic(sqlite: Database) -> None:
    migrate(sqlite)
    script = """
        import sys
        from exporter.database.database import Database
        from exporter.history.migrate import ensure_current
        ensure_current(Database(sys.argv[1]), auto_migrate=True)
        sys.exit("alembic" in sys.modules)
    """
    assert run(start(script, str(sqlite.url))) == [0]


def test_sqlite_has_statistics_of_every_index_of_the_history(sqlite: Database) -> None:
    migrate(sqlite)
    with sqlite.transaction() as connection:
        indexed = connection.execute(text("SELECT idx FROM sqlite_stat1")).scalars().all()
    indexes = schema_of(sqlite)["indexes"]["order_group_snapshots"]
    assert sorted(indexed) == sorted([*indexes, "order_group_snapshots"])


def test_statistics_that_an_operator_gathered_are_kept(sqlite: Database) -> None:
    migrate(sqlite, to="0004")
    execute(
        sqlite,
        "INSERT INTO order_group_snapshots (account, order_group_id, valid_from,"
        " is_auto_cancel_enabled, first_poll_id)"
        " VALUES ('main', 'a', '2026-01-01', 1, 1), ('main', 'b', '2026-01-01', 1, 1)",
        "ANALYZE",
    )
    counted = (
        "SELECT stat FROM sqlite_stat1 WHERE idx IN"
        " ('order_group_snapshots_open', 'order_group_snapshots_valid_from') ORDER BY idx"
    )
    with sqlite.transaction() as connection:
        before = connection.execute(text(counted)).scalars().all()
    migrate(sqlite)
    with sqlite.transaction() as connection:
        assert connection.execute(text(counted)).scalars().all() == before == ["2 2 1", "2 2"]


def test_a_sqlite_file_is_backed_up_only_before_an_upgrade(
    sqlite: Database,
    history_of: Callable[[Database], "History"],
    fill: Callable[[Database], None],
) -> None:
    migrate(sqlite, to=BEFORE)
    assert backups(sqlite) == []
    fill(sqlite)
    snapshots = history_of(sqlite).rows("order_group_snapshots")
    old_umask = os.umask(0)
    try:
        before, backup = migrate(sqlite)
    finally:
        os.umask(old_umask)

    assert before == BEFORE
    assert backup is not None
    assert backups(sqlite) == [backup]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    copy = Database(f"sqlite:///{backup}")
    assert current_revision(copy) == BEFORE
    assert history_of(copy).rows("order_group_snapshots") == snapshots
    copy.close()
    assert migrate(sqlite) == (REVISION, None)
    assert backups(sqlite) == [backup]


def test_without_a_backup_nothing_is_upgraded(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(sqlite, to=BEFORE)

    touch = Path.touch

    def no_room(path: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        if path.suffix == ".backup":
            raise OSError(28, "No space left on device")
        touch(path, mode, exist_ok)

    monkeypatch.setattr(Path, "touch", no_room)
    with pytest.raises(DatabaseError, match=r"cannot create .* No space left on device"):
        migrate(sqlite)
    assert current_revision(sqlite) == BEFORE
    assert backups(sqlite) == []


def test_the_backup_holds_what_others_wrote_before_the_upgrade(sqlite: Database) -> None:
    # Another connection has committed this row, which is only in the write-ahead log so far.
    migrate(sqlite, to=BEFORE)
    assert sqlite.path is not None
    with closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("PRAGMA wal_autocheckpoint=0")
        other.execute(
            "INSERT INTO coverage VALUES ('main', '2026-01-01T00:00:00.000000Z',"
            " '2026-01-01T00:00:00.000000Z', 1, NULL, NULL)"
        )
        other.commit()
        _, backup = migrate(sqlite)
    assert backup is not None
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT COUNT(*) FROM coverage").fetchone() == (1,)


def test_a_file_that_is_not_a_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    content = "these are my notes, do not touch\n"
    path.write_text(content)
    database = Database(f"sqlite:///{path}")
    for act in (current_revision, migrate):
        with pytest.raises(SchemaError, match=r"notes\.txt is a file, but not a SQLite database"):
            act(database)
    assert path.read_text() == content
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
    database.close()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    database = Database(f"sqlite:///{path}")
    migrate(database)
    assert current_revision(database) == REVISION
    database.close()
