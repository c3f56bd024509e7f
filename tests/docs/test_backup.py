"""The recipes of docs/backup.md, run as they stand there, while a daemon polls."""

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
_PATIENCE = 30.0  # seconds
_INTERVAL = 0.2  # seconds
_LOST = 8  # polls


class Place:
    """A directory as an operator has it, with a daemon that polls a restless exchange."""

    def __init__(self, directory: Path, path: str, url: str, served: list[Any]) -> None:
        self.directory = directory
        self.path = path
        self.url = url
        self.served = served

    def polls(self, more: int) -> None:
        """Return after so many more answers."""
        wanted, until = len(self.served) + more, time.monotonic() + _PATIENCE
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
    """A restless exchange that remembers what it served."""
    with Witness() as exchange:
        exchange.register(key_pair.key_id, key_pair.public_key)
        yield exchange


@pytest.fixture
def place(
    tmp_path: Path,
    witness: Witness,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
) -> Iterator[Callable[[str], Place]]:
    """Make the place for a database; what runs there at the end is killed."""
    path = commands(tmp_path / "commands")

    def make(url: str) -> Place:
        write_config(
            base_url=witness.base_url, database_url=url, poll={"interval": f"{_INTERVAL}s"}
        )
        return Place(tmp_path, path, url, witness.served[key_pair.key_id])

    yield make
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "daemon.pid").read_text()), signal.SIGKILL)


def judge(place: Place) -> None:
    """The history is right of what it holds, and says what it lacks: the restore's gap."""
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
    place: Callable[[str], Place], kind: str
) -> None:
    here = place("sqlite:///order_groups.db")
    here.url = f"sqlite:///{here.directory}/order_groups.db"
    here.systemctl("start")
    here.polls(4)
    said = here.run(kind)
    assert said in {"ok\n", ""}
    backup = here.directory / "order_groups.backup.db"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    at_backup = record_of(f"sqlite:///{backup}")
    assert broken_promises(at_backup) == []
    assert differences(at_backup, "main", here.served, complete=False) == []
    here.polls(_LOST)  # which the restore loses

    said = here.run("sh sqlite-restore")
    assert "The schema is at revision" in said
    here.polls(3)
    here.systemctl("stop")
    judge(here)
    assert record_of(here.url).polls[: len(at_backup.polls)] == at_backup.polls


def test_a_copy_of_sqlite_s_file_alone_lacks_what_was_written_last(
    place: Callable[[str], Place],
) -> None:
    here = place("sqlite:///order_groups.db")
    here.systemctl("start")
    here.polls(6)
    shutil.copy(here.directory / "order_groups.db", here.directory / "copy.db")
    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        assert len(record_of(f"sqlite:///{here.directory}/copy.db").polls) >= 5
    here.systemctl("stop")


def test_postgres_is_dumped_while_a_daemon_polls_and_restored(
    place: Callable[[str], Place], postgres_url: str
) -> None:
    here = place(postgres_url)
    here.systemctl("start")
    here.polls(4)
    here.run("sh postgres-backup", DATABASE_URL=libpq(postgres_url))
    here.polls(_LOST)  # which the restore loses

    # The server is lost and another is in its place, as good as empty: polls go to the spool.
    url = make_url(postgres_url)
    admin = url.set(drivername="postgresql", database="postgres")
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as other:
        other.execute(f"DROP DATABASE {url.database} WITH (FORCE)")
        other.execute(f"CREATE DATABASE {url.database} TEMPLATE template0")
    here.polls(1)
    spooled_from = len(here.served)
    here.polls(4)

    here.run("sh postgres-restore", DATABASE_URL=libpq(postgres_url))
    here.polls(3)
    with closing(Spool(here.directory / "spool", 2**28)) as spool:
        until = time.monotonic() + _PATIENCE
        while spool.pending():
            assert time.monotonic() < until
            time.sleep(0.02)
        here.systemctl("stop")
        waiting = sum(spool.pending().values())
    judge(here)
    # What waited in the spool is there too: after the gap nothing is missing.
    begun = here.served[spooled_from].at
    polls = [poll for poll in record_of(here.url).polls if poll["observed_at"] is not None]
    observed = [poll for poll in polls if poll["observed_at"] >= begun]
    assert len(observed) + waiting == len(here.served) - spooled_from
