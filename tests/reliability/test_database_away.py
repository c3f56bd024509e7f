"""Test a running daemon while its database is away, for each cause of an outage."""

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

from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import Judge, Link

Fault = Callable[["Link", psycopg.Connection[Any]], AbstractContextManager[None]]

_INTERVAL = 0.3  # seconds


@contextmanager
def _refused(link: "Link", _admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Refuse connections, as a stopped server does."""
    link.refuse()
    yield
    link.open()


@contextmanager
def _read_only(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Make the database read-only, as on a standby after a failover."""
    name = admin.info.dbname
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    _terminate_backends(admin)
    yield
    admin.execute("SET default_transaction_read_only = off")
    admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    _terminate_backends(admin)


@contextmanager
def _full(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Fill the disk that holds the table of polls."""
    row = admin.execute("SHOW data_directory").fetchone()
    assert row is not None
    owner = Path(row[0]).stat()
    # The server's user cannot enter pytest's temporary directory.
    place = Path(tempfile.mkdtemp(prefix="exporter-disk-"))
    place.chmod(0o755)
    try:
        with _mounted(place / "disk", megabytes=2) as disk:
            os.chown(disk, owner.st_uid, owner.st_gid)
            admin.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            try:
                # Each row takes a new page, so that the first INSERT finds the disk full.
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
    """Fail every INSERT as on a full disk, for users who cannot mount one."""
    admin.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
        " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    admin.execute("CREATE TRIGGER full_disk BEFORE INSERT ON polls EXECUTE FUNCTION full_disk()")
    yield
    admin.execute("DROP TRIGGER full_disk ON polls")


@contextmanager
def _locked(_link: "Link", admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Lock a table from another session, as VACUUM FULL does."""
    with admin.transaction():
        admin.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _hanging(link: "Link", _admin: psycopg.Connection[Any]) -> Iterator[None]:
    """Keep connections open but silent, as a suspended or swapping server does."""
    link.frozen.set()
    yield
    link.frozen.clear()


def _terminate_backends(admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize("fault", [_refused, _read_only, _full, _as_if_full, _locked, _hanging])
def test_polls_continue_while_postgres_is_away_and_are_recorded_later(
    fault: Fault,
    link: "Link",
    admin: psycopg.Connection[Any],
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    judge: "Judge",
    postgres_url: str,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=link.url, poll={"interval": f"{_INTERVAL}s"}
    )
    daemon = start_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 2, "polls before")
    with fault(link, admin):
        before = len(served)
        daemon.wait(lambda: "waits in the spool" in daemon.text, "a spooled poll")
        # Under a lock or with a silent server, every poll waits a few seconds for a timeout.
        wanted = before + (1 if fault in {_locked, _hanging} else 3)
        daemon.wait(lambda: len(served) >= wanted, "polls while the database is away")
    daemon.wait_for_text("polls from the spool are in the database")
    after = len(served)

    def recorded() -> int:
        row = admin.execute("SELECT COUNT(*) FROM polls WHERE outcome = 'ok'").fetchone()
        assert row is not None
        return int(row[0])

    # On a busy machine, some of the served polls may still wait in the spool.
    daemon.wait(lambda: recorded() >= after + 2 and recorded() == len(served), "polls after")

    assert daemon.stop() == 0
    judge(postgres_url)
    if fault is _full:
        assert "No space left on device" in daemon.text


def test_terminated_backends_neither_lose_nor_double_a_poll(
    admin: psycopg.Connection[Any],
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    judge: "Judge",
    postgres_url: str,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=postgres_url, poll={"interval": "0.1s"}
    )
    daemon = start_daemon(config)
    served = witness.served[key_pair.key_id]
    for wanted in range(2, 30):
        daemon.wait(lambda wanted=wanted: len(served) >= wanted, "a poll")  # type: ignore[misc]  # mypy cannot infer it
        # By now the poll's transaction is about to begin, or has begun.
        time.sleep((wanted % 8) / 1000)
        _terminate_backends(admin)
    daemon.wait(lambda: len(served) >= 32, "polls after")

    assert daemon.stop() == 0
    judge(postgres_url)


@contextmanager
def _sqlite_locked(database: Path) -> Iterator[None]:
    """Hold SQLite's write lock from another connection."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _sqlite_full(database: Path) -> Iterator[None]:
    """Fill the disk that holds the database."""
    with _filled(database.parent):
        yield


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Fill a small disk with one file, and delete the file at the end."""
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
    """Mount a small disk at `place`."""
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
    """Make the files immutable, so that not even root can write to them."""
    # The -shm file stays writable: it is mapped into memory, where a failed write is a signal.
    files = [database, database.with_name(f"{database.name}-wal")]
    if subprocess.run(["chattr", "+i", *files], capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: needs root and chattr +i to make a file immutable")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@pytest.mark.parametrize("fault", [_sqlite_locked, _sqlite_full, _sqlite_read_only])
def test_polls_continue_while_sqlite_cannot_be_written_and_are_recorded_later(
    fault: Callable[[Path], AbstractContextManager[None]],
    small_disk: Path,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    judge: "Judge",
    tmp_path: Path,
) -> None:
    directory = small_disk if fault is _sqlite_full else tmp_path
    database = directory / "order_groups.db"
    url = f"sqlite:///{database}"
    config = write_config(
        base_url=witness.base_url, database_url=url, poll={"interval": f"{_INTERVAL}s"}
    )
    daemon = start_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 2, "polls before")
    with fault(database):
        before = len(served)
        daemon.wait(lambda: "waits in the spool" in daemon.text, "a spooled poll")
        # Each poll waits ten seconds for SQLite's lock, so one is enough.
        wanted = before + (1 if fault is _sqlite_locked else 3)
        daemon.wait(lambda: len(served) >= wanted, "polls while the database cannot be written")
    daemon.wait_for_text("polls from the spool are in the database")
    after = len(served)
    daemon.wait(lambda: len(served) >= after + 2, "polls after")

    assert daemon.stop() == 0
    judge(url)
    if fault is _sqlite_full:
        assert "disk is full" in daemon.text


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a disk of one megabyte if the fault needs one, and `tmp_path` otherwise."""
    if request.node.callspec.params["fault"] is not _sqlite_full:
        yield tmp_path
        return
    with _mounted(tmp_path / "disk", megabytes=1) as place:
        yield place
