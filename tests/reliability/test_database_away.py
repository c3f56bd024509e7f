"""The database goes away under a running daemon, in each way that it can."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import Judge, Link, RunDaemon

Fault = Callable[["Link", psycopg.Connection[Any]], AbstractContextManager[None]]

_INTERVAL = 0.3  # seconds


@contextmanager
def _refused(link: "Link", _admin: psycopg.Connection[Any]) -> Iterator[None]:
    """The server is stopped, or its port is closed."""
    link.refuse()
    yield
    link.open()


@contextmanager
def _read_only(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """A failover left a standby, or somebody took away the right to write."""
    name = admin.info.dbname
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    _end_others(admin)
    yield
    admin.execute("SET default_transaction_read_only = off")
    admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    _end_others(admin)


@contextmanager
def _full(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """The disk of the table of polls is full."""
    row = admin.execute("SHOW data_directory").fetchone()
    assert row is not None
    owner = Path(row[0]).stat()
    # Not below pytest's directory, which the server's user cannot enter.
    place = Path(tempfile.mkdtemp(prefix="exporter-disk-"))
    place.chmod(0o755)
    try:
        with _mounted(place / "disk", megabytes=2) as disk:
            os.chown(disk, owner.st_uid, owner.st_gid)
            admin.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            try:
                # A new page for each row, so that the first finds the disk full.
                admin.execute("ALTER TABLE polls SET (fillfactor = 10)")
                admin.execute("ALTER TABLE polls SET TABLESPACE small")
                with _filled(disk):
                    yield
            finally:
                admin.execute("ALTER TABLE polls SET TABLESPACE pg_default")
                admin.execute("DROP TABLESPACE small")
    finally:
        shutil.rmtree(place)


@contextmanager
def _as_if_full(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """As if it were, for those who cannot mount one: every INSERT fails as it does then."""
    admin.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
        " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    admin.execute("CREATE TRIGGER full_disk BEFORE INSERT ON polls EXECUTE FUNCTION full_disk()")
    yield
    admin.execute("DROP TRIGGER full_disk ON polls")


@contextmanager
def _locked(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Another session holds the table, as a VACUUM FULL does."""
    with admin.transaction():
        admin.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _hanging(link: "Link", _admin: psycopg.Connection[Any]) -> Iterator[None]:
    """The server is there and says nothing, as one does that was stopped or swaps."""
    link.frozen.set()
    yield
    link.frozen.clear()


def _end_others(admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize("fault", [_refused, _read_only, _full, _as_if_full, _locked, _hanging])
def test_polls_go_on_while_postgres_is_away_and_are_all_recorded_later(  # noqa: PLR0917  # pytest passes fixtures by name
    fault: Fault,
    link: "Link",
    admin: psycopg.Connection[Any],
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    judge: "Judge",
    postgres_url: str,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=link.url, poll={"interval": f"{_INTERVAL}s"}
    )
    daemon = run_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 2, "polls before")
    with fault(link, admin):
        before = len(served)
        daemon.wait(lambda: "waits in the spool" in daemon.log, "a spooled poll")
        # A lock and a silent server are each waited for a few seconds by every poll.
        wanted = before + (1 if fault in {_locked, _hanging} else 3)
        daemon.wait(lambda: len(served) >= wanted, "polls while the database is away")
    daemon.wait_for_log("polls from the spool are in the database")
    after = len(served)

    def recorded() -> int:
        row = admin.execute("SELECT COUNT(*) FROM polls WHERE outcome = 'ok'").fetchone()
        assert row is not None
        return int(row[0])

    # Not only asked: on a busy machine a few more may wait in the spool for older ones.
    daemon.wait(lambda: recorded() >= after + 2 and recorded() == len(served), "polls after")

    assert daemon.stop() == 0
    judge(postgres_url)
    if fault is _full:
        assert "No space left on device" in daemon.log


def test_backends_ended_in_the_middle_of_their_transactions_lose_and_double_nothing(  # noqa: PLR0917  # pytest passes fixtures by name
    admin: psycopg.Connection[Any],
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    judge: "Judge",
    postgres_url: str,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=postgres_url, poll={"interval": "0.1s"}
    )
    daemon = run_daemon(config)
    served = witness.served[key_pair.key_id]
    for wanted in range(2, 30):
        daemon.wait(lambda wanted=wanted: len(served) >= wanted, "a poll")  # type: ignore[misc]  # mypy cannot infer it
        # Now its transaction is about to begin, or has begun.
        time.sleep((wanted % 8) / 1000)
        _end_others(admin)
    daemon.wait(lambda: len(served) >= 32, "polls after")

    assert daemon.stop() == 0
    judge(postgres_url)


@contextmanager
def _sqlite_locked(database: Path) -> Iterator[None]:
    """Another program holds SQLite's only writer's place."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _sqlite_full(database: Path) -> Iterator[None]:
    """The disk is full."""
    with _filled(database.parent):
        yield


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """A small disk has no room left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    yield
    filler.unlink()


@contextmanager
def _mounted(place: Path, *, megabytes: int) -> Iterator[Path]:
    """Mount a small disk there."""
    place.mkdir()
    options = f"size={megabytes}m,mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: needs root to mount a disk that can be filled")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def _sqlite_read_only(database: Path) -> Iterator[None]:
    """The file may not be written any more, which even root cannot do to an immutable one."""
    # Not the -shm: it is mapped into memory, where the kernel answers a write with a signal.
    files = [database, database.with_name(f"{database.name}-wal")]
    if subprocess.run(["chattr", "+i", *files], capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: needs root and chattr +i to make a file immutable")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@pytest.mark.parametrize("fault", [_sqlite_locked, _sqlite_full, _sqlite_read_only])
def test_polls_go_on_while_sqlite_cannot_be_written_and_are_all_recorded_later(  # noqa: PLR0917  # pytest passes fixtures by name
    fault: Callable[[Path], AbstractContextManager[None]],
    small_disk: Path,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_daemon: "RunDaemon",
    judge: "Judge",
    tmp_path: Path,
) -> None:
    directory = small_disk if fault is _sqlite_full else tmp_path
    database = directory / "order_groups.db"
    url = f"sqlite:///{database}"
    config = write_config(
        base_url=witness.base_url, database_url=url, poll={"interval": f"{_INTERVAL}s"}
    )
    daemon = run_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 2, "polls before")
    with fault(database):
        before = len(served)
        daemon.wait(lambda: "waits in the spool" in daemon.log, "a spooled poll")
        # SQLite waits ten seconds for its lock: more polls would only take longer.
        wanted = before + (1 if fault is _sqlite_locked else 3)
        daemon.wait(lambda: len(served) >= wanted, "polls while the database cannot be written")
    daemon.wait_for_log("polls from the spool are in the database")
    after = len(served)
    daemon.wait(lambda: len(served) >= after + 2, "polls after")

    assert daemon.stop() == 0
    judge(url)
    if fault is _sqlite_full:
        assert "disk is full" in daemon.log


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of one megabyte, where the test needs one."""
    if request.node.callspec.params["fault"] is not _sqlite_full:
        yield tmp_path
        return
    with _mounted(tmp_path / "disk", megabytes=1) as place:
        yield place
