"""The recipes of docs/backup.md back up and restore a database while a daemon polls."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import make_url

from exporter.spool.spool import Spool
from soak.witness import Witness, broken_promises, differences, record_of
from tests.support.recipes import commands, has, run_recipe

if TYPE_CHECKING:
    from tests.conftest import KeyPair, WriteConfig

_PAGE = "backup.md"
_TIMEOUT = 30.0  # seconds
_INTERVAL = 0.2  # seconds
_LOST = 8  # polls that each restore loses


class Installation:
    """An operator's directory, with a daemon that polls an exchange whose groups keep changing."""

    def __init__(self, directory: Path, path: str, url: str, served: list[Any]) -> None:
        self.directory = directory
        self.path = path
        self.url = url
        self.served = served

    def wait_for_polls(self, more: int) -> None:
        """Wait until the exchange has sent this many more responses."""
        wanted, until = len(self.served) + more, time.monotonic() + _TIMEOUT
        while len(self.served) < wanted:
            assert time.monotonic() < until, (self.directory / "daemon.log").read_text()
            time.sleep(0.02)

    def systemctl(self, action: str) -> None:
        """Start or stop the daemon as the recipes do."""
        subprocess.run(
            ["systemctl", action, "kalshi-exporter"],
            cwd=self.directory,
            env={"PATH": self.path},
            check=True,
        )

    def run(self, kind: str, **env: str) -> str:
        """Run a recipe."""
        return run_recipe(_PAGE, kind, self.directory, path=self.path, env=env)


@pytest.fixture
def witness(key_pair: "KeyPair") -> Iterator[Witness]:
    """Yield an exchange whose groups keep changing, and that records what it served."""
    with Witness() as exchange:
        exchange.register(key_pair.key_id, key_pair.public_key)
        yield exchange


@pytest.fixture
def install(
    tmp_path: Path,
    witness: Witness,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
) -> Iterator[Callable[[str], Installation]]:
    """Yield a function that makes an installation, and kill its daemon at the end."""
    path = commands(tmp_path / "commands")

    def make(url: str) -> Installation:
        write_config(
            base_url=witness.base_url, database_url=url, poll={"interval": f"{_INTERVAL}s"}
        )
        return Installation(tmp_path, path, url, witness.served[key_pair.key_id])

    yield make
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "daemon.pid").read_text()), signal.SIGKILL)


def check_restored(place: Installation) -> None:
    """Check that the history is correct, and that it has a gap for what the restore lost."""
    recorded = record_of(place.url)
    assert broken_promises(recorded) == []
    assert differences(recorded, "main", place.served, complete=False) == []
    query = "SELECT seconds, cause FROM coverage_gaps ORDER BY seconds DESC"
    if place.url.startswith("sqlite"):
        with closing(sqlite3.connect(place.directory / "order_groups.db")) as connection:
            seconds, cause = connection.execute(query).fetchall()[0]
    else:
        with psycopg.connect(libpq(place.url)) as other:
            seconds, cause = other.execute(query).fetchall()[0]
    assert cause == "not_running"
    assert seconds > _LOST * _INTERVAL * 0.5


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


needs_sqlite3 = pytest.mark.skipif(
    not has("sqlite3"), reason="SKIPPED LOUDLY: no sqlite3 here: apt-get install sqlite3"
)


@pytest.mark.parametrize(
    "kind", [pytest.param("sh sqlite-backup", marks=needs_sqlite3), "sh sqlite-backup-python"]
)
def test_sqlite_is_backed_up_while_a_daemon_polls_and_restored(
    install: Callable[[str], Installation], kind: str
) -> None:
    here = install("sqlite:///order_groups.db")
    here.url = f"sqlite:///{here.directory}/order_groups.db"
    here.systemctl("start")
    here.wait_for_polls(4)
    said = here.run(kind)
    assert said in {"ok\n", ""}
    backup = here.directory / "order_groups.backup.db"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    at_backup = record_of(f"sqlite:///{backup}")
    assert broken_promises(at_backup) == []
    assert differences(at_backup, "main", here.served, complete=False) == []
    here.wait_for_polls(_LOST)  # the restore loses these

    said = here.run("sh sqlite-restore")
    assert "The schema is at revision" in said
    here.wait_for_polls(3)
    here.systemctl("stop")
    check_restored(here)
    assert record_of(here.url).polls[: len(at_backup.polls)] == at_backup.polls


def test_a_copy_of_the_sqlite_file_alone_lacks_the_latest_polls(
    install: Callable[[str], Installation],
) -> None:
    here = install("sqlite:///order_groups.db")
    here.systemctl("start")
    here.wait_for_polls(6)
    shutil.copy(here.directory / "order_groups.db", here.directory / "copy.db")
    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        assert len(record_of(f"sqlite:///{here.directory}/copy.db").polls) >= 5
    here.systemctl("stop")


def test_postgres_is_dumped_while_a_daemon_polls_and_restored(
    install: Callable[[str], Installation], postgres_url: str
) -> None:
    here = install(postgres_url)
    here.systemctl("start")
    here.wait_for_polls(4)
    here.run("sh postgres-backup", DATABASE_URL=libpq(postgres_url))
    here.wait_for_polls(_LOST)  # the restore loses these

    # An empty database takes the place of the lost one, so polls go to the spool.
    url = make_url(postgres_url)
    admin = url.set(drivername="postgresql", database="postgres")
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as other:
        other.execute(f"DROP DATABASE {url.database} WITH (FORCE)")
        other.execute(f"CREATE DATABASE {url.database} TEMPLATE template0")
    here.wait_for_polls(1)
    spooled_from = len(here.served)
    here.wait_for_polls(4)

    here.run("sh postgres-restore", DATABASE_URL=libpq(postgres_url))
    here.wait_for_polls(3)
    with closing(Spool(here.directory / "spool", 2**28)) as spool:
        until = time.monotonic() + _TIMEOUT
        while spool.pending():
            assert time.monotonic() < until
            time.sleep(0.02)
        here.systemctl("stop")
        waiting = sum(spool.pending().values())
    check_restored(here)
    # The polls from the spool are restored too: nothing is missing after the gap.
    begun = here.served[spooled_from].at
    polls = [poll for poll in record_of(here.url).polls if poll["observed_at"] is not None]
    observed = [poll for poll in polls if poll["observed_at"] >= begun]
    assert len(observed) + waiting == len(here.served) - spooled_from
