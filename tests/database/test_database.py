"""Connections keep files private, transactions atomic, and errors to one line."""

import _thread
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, insert, make_url, text

from exporter.database import postgres_message
from exporter.database.database import Database, set_statement_timeout
from exporter.database.postgres import driver
from exporter.database.postgres_copy import Block, copy_in
from exporter.database.sqlite_connection import sqlite_driver
from exporter.errors import ConfigurationError, DatabaseError, PoisonPollError
from exporter.history.migrate import migrate
from exporter.history.store import Store
from exporter.reading.connect import ReadOnlyDatabase


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """Yield a SQLite database with the schema and one additional table, `t`."""
    database = Database(sqlite_url)
    migrate(database)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    yield database
    database.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_sqlite_file_and_its_write_ahead_log_are_private(sqlite_url: str) -> None:
    old_umask = os.umask(0)
    database = Database(sqlite_url)
    assert database.path is not None
    database.path.unlink()
    try:
        migrate(database)
        with database.transaction():
            pass
        modes = {path.name: mode(path) for path in database.path.parent.iterdir()}
    finally:
        os.umask(old_umask)
        database.close()
    assert modes == dict.fromkeys(
        ("order_groups.db", "order_groups.db-wal", "order_groups.db-shm"), 0o600
    )


def test_a_deleted_database_is_not_created_again(sqlite: Database) -> None:
    sqlite.close()
    assert sqlite.path is not None
    sqlite.path.unlink()

    with (
        pytest.raises(DatabaseError, match="does not exist; it was moved or deleted"),
        sqlite.transaction(),
    ):
        pass
    assert not sqlite.path.exists()


def test_a_sqlite_file_with_content_keeps_its_mode(sqlite: Database) -> None:
    assert sqlite.path is not None
    sqlite.path.chmod(0o640)
    again = Database(str(sqlite.url))
    with again.transaction():
        pass
    again.close()
    assert mode(sqlite.path) == 0o640


def test_sqlite_syncs_every_commit_and_blocks_no_reader(sqlite: Database) -> None:
    with sqlite.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert sqlite.path is not None
        with closing(sqlite3.connect(sqlite.path)) as reader:
            assert reader.execute("SELECT COUNT(*) FROM t").fetchone() == (0,)


def test_a_missing_directory_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"database\.url: the directory .*/absent does"):
        Database(f"sqlite:///{tmp_path / 'absent' / 'order_groups.db'}")


def test_a_failed_transaction_leaves_nothing_behind(empty_database: Database) -> None:
    with empty_database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))

    def fail() -> None:
        with empty_database.transaction() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
            connection.execute(text("CREATE TABLE u (n INTEGER)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with empty_database.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar() == 0
    with pytest.raises(DatabaseError), empty_database.transaction() as connection:
        connection.execute(text("SELECT * FROM u"))


def test_threads_of_one_process_take_turns_to_write(empty_database: Database) -> None:
    with empty_database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))

    def write() -> None:
        for number in range(20):
            with empty_database.transaction() as connection:
                connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with empty_database.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar() == 80


def test_a_thread_waits_for_its_turn_only_so_long(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.database.use._TURN_SECONDS", 0.2)
    with sqlite.transaction(), ThreadPoolExecutor(1) as other:
        waited = other.submit(sqlite.transaction().__enter__).exception(10)
    assert isinstance(waited, DatabaseError)
    assert "busy with other accounts' polls" in str(waited)
    # The wait did not open the circuit breaker, because the database itself works.
    with sqlite.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar() == 0


def test_an_error_is_one_line_without_sql_or_parameters(empty_database: Database) -> None:
    with pytest.raises(DatabaseError) as caught, empty_database.transaction() as connection:
        connection.execute(text("SELECT * FROM absent WHERE x = :secret"), {"secret": "hunter2"})
    said = str(caught.value)
    assert said.startswith("database")
    assert "absent" in said
    assert "\n" not in said
    assert "hunter2" not in said
    assert "SELECT" not in said
    assert int(caught.value.exit_code) == 78


def test_the_error_of_an_unreachable_server_is_one_line_without_the_password() -> None:
    database = Database("postgresql+psycopg://me:hunter2@127.0.0.1:1/db")
    with pytest.raises(DatabaseError) as caught, database.transaction():
        pass
    database.close()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_connection_that_died_between_two_transactions_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.database.postgres._FRESH_SECONDS", 0.0)
    database = Database(postgres_url, pool_size=1)
    with database.transaction() as connection:
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    other = Database(postgres_url)
    with other.transaction() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:p, 5000)"), {"p": process})
    other.close()
    with database.transaction() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != process
    database.close()


def test_settings_in_the_url_override_the_defaults(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"application_name": "mine"})
    database = Database(url.render_as_string(hide_password=False))
    with database.transaction() as connection:
        assert connection.execute(text("SHOW application_name")).scalar_one() == "mine"
    database.close()


def test_giving_up_on_a_lock_leaves_no_session_waiting_for_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.database.postgres._STATEMENT_SECONDS", 0.3)
    database, other = Database(postgres_url), Database(postgres_url)
    migrate(database)
    store = Store(database, owner="first")
    waiting = text("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with other.transaction() as connection:
        connection.execute(text("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"))
        for _ in range(2):
            with pytest.raises(DatabaseError, match="another session holds a lock"):
                store.claim("main", now=datetime.now(UTC), lease=1.0)
            connection.execute(text("SELECT pg_stat_clear_snapshot()"))
            assert connection.execute(waiting).scalar_one() == 0
    other.close()
    database.close()


def test_a_connection_lost_during_a_copy_is_replaced_without_logging(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n bigint, said text)"))

    def blocks(process: int) -> Iterator[Block]:
        for number in range(100):
            if number == 50:
                with other.transaction() as ending:
                    ending.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": process})
            yield (number,), [["x" * 100_000]]

    def copy() -> None:
        with database.transaction() as connection:
            process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            copy_in(connection, "t", {"n": "bigint", "said": "text"}, blocks(process))

    with pytest.raises(DatabaseError):
        copy()
    with database.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar_one() == 0
    assert not caplog.records
    other.close()
    database.close()


def test_a_statement_sent_in_one_round_trip_is_atomic(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(postgres_url)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n integer PRIMARY KEY)"))
    insert = text("INSERT INTO t VALUES (:n) RETURNING n")
    assert database.execute_one(insert, {"n": 7}) == (7,)
    with pytest.raises(PoisonPollError, match="duplicate key"):
        database.execute_one(insert, {"n": 7})
    with pytest.raises(DatabaseError, match="terminating connection"):
        database.execute_one(text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    lost = text("WITH lost AS (INSERT INTO t VALUES (8)) SELECT pg_terminate_backend(:process)")
    with database.transaction() as connection:
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with pytest.raises(DatabaseError, match="terminating connection"):
        database.execute_one(lost, {"process": process})
    assert database.execute_one(text("SELECT n FROM t WHERE n > :n"), {"n": 7}) is None
    assert database.execute_one(text("SELECT n FROM t"), {}) == (7,)
    assert database.execute_one(text("SELECT n, '100 %' FROM t"), {}) == (7, "100 %")
    assert not caplog.records
    database.close()


def test_statements_run_together_are_written_whole_or_not_at_all(sqlite: Database) -> None:
    insert, other = (text(f"INSERT INTO t VALUES (:n + {step})") for step in (0, 1))
    found = text("SELECT n FROM t WHERE n = :wanted").columns(n=Integer)
    values = {"n": 1, "wanted": 2}
    assert sqlite.execute_together((insert, other, found), values) == (2,)
    assert sqlite.execute_together((insert, found, other), values | {"wanted": 7}) is None
    with pytest.raises(DatabaseError, match="no such table"):
        sqlite.execute_together((insert, text("INSERT INTO absent VALUES (1)")), values)
    with sqlite.connected() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalars().all() == [1, 2]


def test_what_follows_a_statement_that_need_not_be_durable_is_durable(sqlite: Database) -> None:
    insert = text("INSERT INTO t VALUES (:n)")
    setting = text("PRAGMA synchronous").columns(synchronous=Integer)
    assert sqlite.execute_together((setting,), {}, durable=False) == (1,)
    with pytest.raises(DatabaseError):
        sqlite.execute_together((insert, text("nonsense")), {"n": 1}, durable=False)
    assert sqlite.execute_together((setting,), {}) == (2,)


def test_a_transaction_that_an_error_left_open_is_rolled_back(sqlite: Database) -> None:
    insert = text("INSERT INTO t VALUES (1)")

    def interrupt() -> None:
        with sqlite.connected() as connection:
            connection.execute(insert)
            sqlite_driver(connection).execute("COMMIT")
            sqlite_driver(connection).execute("BEGIN")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    sqlite.execute_together((insert,), {})
    with sqlite.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t")).scalar() == 2


def test_a_transaction_that_a_signal_interrupts_lets_go_of_the_lock(sqlite: Database) -> None:
    insert = text("INSERT INTO t VALUES (1)")

    def interrupt() -> None:
        with sqlite.transaction() as connection:
            connection.execute(insert)
            # The signal arrives while the driver is at work.
            sqlite_driver(connection).create_function("interrupt", 0, _thread.interrupt_main)
            connection.execute(text("SELECT interrupt()"))

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupt()
    assert caught.tb is not None  # it still refers to the cursor
    assert sqlite.path is not None
    with closing(sqlite3.connect(sqlite.path, timeout=0)) as other, other:
        other.execute("INSERT INTO t VALUES (2)")
    sqlite.execute_together((insert,), {})
    with sqlite.transaction() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalars().all() == [2, 1]


def test_an_interrupted_read_ends_with_the_interruption(sqlite: Database) -> None:
    def interrupt() -> None:
        with (
            closing(ReadOnlyDatabase(str(sqlite.url))) as reader,
            reader.transaction() as connection,
        ):
            sqlite_driver(connection).create_function("interrupt", 0, _thread.interrupt_main)
            connection.execute(text("SELECT interrupt()"))

    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_a_connection_that_cannot_be_used_any_more_is_replaced(sqlite: Database) -> None:
    assert sqlite.path is not None
    with pytest.raises(DatabaseError), sqlite.connected() as connection:
        sqlite_driver(connection).close()
    sqlite.execute_together((text("INSERT INTO t VALUES (1)"),), {})
    assert sqlite.generation == 0
    # The new one is watched as the old one was.
    sqlite.path.with_name(f"{sqlite.path.name}-wal").unlink()
    with pytest.raises(DatabaseError, match="its write-ahead log"), sqlite.transaction():
        pass
    with sqlite.transaction() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalars().all() == [1]


def test_others_fail_fast_as_long_as_another_process_holds_the_lock(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.database.sqlite._BUSY_SECONDS", 0.1)
    monkeypatch.setattr("exporter.database.circuit_breaker._LONG", 0.05)
    monkeypatch.setattr("exporter.database.circuit_breaker._PAUSE", 0.05)
    database = Database(sqlite_url)
    migrate(database)
    assert database.path is not None
    with closing(database), closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked") as waited, database.transaction():
            pass
        assert waited.value.__cause__ is not None
        time.sleep(0.5)  # several probes
        with pytest.raises(DatabaseError, match="locked") as refused, database.transaction():
            pass
        assert refused.value.__cause__ is None  # SQLite was not asked
        other.execute("ROLLBACK")
        for _ in range(500):
            with suppress(DatabaseError), database.transaction():
                break
            time.sleep(0.01)
        else:
            pytest.fail("the circuit stays open")


def test_a_repeated_statement_is_prepared(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    statement = text("SELECT CAST(:n AS integer) + 1")

    def in_session(query: str) -> list[tuple[object, ...]]:
        with database.transaction() as connection:
            result = connection.execute(text(query))
            return [tuple(row) for row in result] if result.returns_rows else []

    plans = "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
    assert database.execute_one(statement, {"n": 1}) == (2,)
    assert in_session(plans) == [], "a statement is prepared before it is repeated"
    for number in range(7):
        assert database.execute_one(statement, {"n": number}) == (number + 1,)
    assert in_session(plans) == [(7,)]
    ((name,),) = in_session("SELECT name FROM pg_prepared_statements")
    assert len(str(name)) > len("_pg3_0000"), "another client's statement may have that number"
    # A pooler that assigns another session has the same effect.
    with database.connected() as connection:
        driver(connection).pgconn.exec_(b"DEALLOCATE ALL")
    for number in range(2):
        assert database.execute_one(statement, {"n": number}) == (number + 1,)
    assert in_session(plans) == []
    database.close()


def test_only_statements_that_must_be_durable_wait_for_the_disk(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    numbers = Table("numbers", MetaData(), Column("n", Integer))
    with database.transaction() as connection:
        for statement in (
            "CREATE TABLE numbers (n integer)",
            "CREATE TABLE commits (n integer, how text)",
            """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO commits VALUES (NEW.n, current_setting('synchronous_commit'));
            RETURN NULL; END $$""",
            """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON numbers
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()""",
        ):
            connection.execute(text(statement))
    add = insert(numbers).values(n=bindparam("number")).returning(numbers.c.n)
    for number in range(8):
        durable = number % 2 == 0
        assert database.execute_one(add, {"number": number}, durable=durable) == (number,)
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT n, how FROM commits ORDER BY n")).all()
    assert [how for _, how in rows] == ["on", "off"] * 4
    database.close()


def test_a_session_of_its_own_keeps_the_settings(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    settings = text("SELECT current_setting('statement_timeout')")
    for _ in range(3):
        assert database.execute_one(settings, {}) == ("10s",)
    with database.connected() as connection:
        assert connection.execute(settings).scalar_one() == "10s"
    with database.transaction() as connection:
        set_statement_timeout(connection, rows=5_000)
        assert connection.execute(settings).scalar_one() == "15s"
    assert database.execute_one(settings, {}) == ("10s",)
    database.close()


def test_a_session_whose_settings_fail_gets_them_with_the_next_statement(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"{postgres_url}&options=-c%20DateStyle%3DGerman", pool_size=1)
    now = text("SELECT now()")
    assert database.execute_one(now, {}) is not None
    with monkeypatch.context() as patch:
        patch.setattr(postgres_message, "_settings", lambda *_: "SELECT pg_sleep('nonsense')")
        with pytest.raises(DatabaseError):
            database.execute_one(now, {})
    assert database.execute_one(now, {}) is not None
    database.close()


def test_a_prepared_statement_survives_a_column_that_gets_another_type(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    select = text("SELECT n FROM t")
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (n integer)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
    for _ in range(3):
        assert database.execute_one(select, {}) == (1,)
    with closing(Database(postgres_url)) as other, other.transaction() as connection:
        connection.execute(text("ALTER TABLE t ALTER COLUMN n TYPE bigint"))
    assert database.execute_one(select, {}) == (1,)
    database.close()


def test_settings_do_not_stay_in_a_session_that_may_be_a_poolers(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_message._Session, "_keeps_its_state", lambda _self: False)
    database = Database(postgres_url, pool_size=1)
    settings = text("SELECT current_setting('statement_timeout')")
    for _ in range(3):
        assert database.execute_one(settings, {}) == ("10s",)
        with database.connected() as connection:
            assert connection.execute(settings).scalar_one() == "0"
    database.close()
