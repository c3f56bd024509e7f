"""Test that mistakes with owners, modes and mounts are named, and that no poll is lost."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import KeyPair, WriteConfig

_ROOT = os.geteuid() == 0
_NOBODY = 65534


# As root, commands run without the capabilities to ignore owners and modes. Another user may not
# be able to run the tests' Python.
_OBEYING = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if _ROOT else []


@dataclass
class Place:
    """A directory in which the command runs as a user whom owners and modes restrict."""

    directory: Path
    config: Path

    def run(
        self, *arguments: str, before: Sequence[str] = _OBEYING
    ) -> subprocess.CompletedProcess[str]:
        """Run the command as that user."""
        return subprocess.run(
            [*before, sys.executable, "-m", "exporter", "--config", self.config, *arguments],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def take_away(self, name: str) -> None:
        """Give a path to another user or, without root, forbid all access to it."""
        path = self.directory / name
        path.chmod(0o700 if path.is_dir() else 0o600)
        if _ROOT:
            os.chown(path, _NOBODY, _NOBODY)
        else:
            path.chmod(0o000)

    def polls(self, database: str) -> int:
        """Return how many polls are in a database or the spool."""
        with closing(sqlite3.connect(self.directory / database)) as connection:
            count: int = connection.execute("SELECT COUNT(*) FROM polls").fetchone()[0]
        return count


@pytest.fixture
def place(exchange: Exchange, key_pair: "KeyPair", write_config: "WriteConfig") -> Iterator[Place]:
    """Yield a `Place` with its database in `data` and its spool in `spool`."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-place-"))
    directory.chmod(0o755)
    written = write_config(
        base_url=exchange.base_url,
        database_url="sqlite:///data/order_groups.db",
        account={"private_key_file": "kalshi.pem"},
    )
    shutil.copy(written, directory / "config.toml")
    shutil.copy(key_pair.private_key_file, directory / "kalshi.pem")
    (directory / "data").mkdir()
    made = Place(directory, directory / "config.toml")
    exchange.groups(key_pair.key_id).create("a")
    yield made
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(directory)


def _close_directory(place: Place) -> None:
    place.take_away("data")


def _close_file(place: Place) -> None:
    place.take_away("data/order_groups.db")


def _protect_file(place: Place) -> None:
    (place.directory / "data" / "order_groups.db").chmod(0o400)


def _protect_directory(place: Place) -> None:
    (place.directory / "data").chmod(0o555)


def _close_index(place: Place) -> None:
    for suffix in ("-wal", "-shm"):
        (place.directory / "data" / f"order_groups.db{suffix}").touch()
        place.take_away(f"data/order_groups.db{suffix}")


def _become_directory(place: Place) -> None:
    (place.directory / "data" / "order_groups.db").unlink()
    (place.directory / "data" / "order_groups.db").mkdir()


def _damage_page(place: Place) -> None:
    path = place.directory / "data" / "order_groups.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _damage_header(place: Place) -> None:
    with (place.directory / "data" / "order_groups.db").open("r+b") as file:
        file.write(b"\x00" * 100)


def _drop_table(place: Place) -> None:
    with closing(sqlite3.connect(place.directory / "data" / "order_groups.db")) as connection:
        connection.execute("ALTER TABLE polls RENAME TO old_polls")


def _drop_revision(place: Place) -> None:
    with closing(sqlite3.connect(place.directory / "data" / "order_groups.db")) as connection:
        connection.execute("DROP TABLE alembic_version")


@pytest.mark.parametrize(
    ("mistake", "code", "message"),
    [
        (_close_directory, 78, "data may not be entered"),
        (_close_file, 78, "order_groups.db may not be read or written by"),
        (_protect_file, 78, "order_groups.db may not be written by"),
        (_protect_directory, 78, "data may not be written to by"),
        (_close_index, 78, "order_groups.db-wal may not be read or written by"),
        (_become_directory, 78, "order_groups.db is a directory"),
        (_damage_page, 78, "is damaged"),
        (_damage_header, 78, "not a SQLite database, or its beginning is damaged"),
        (_drop_table, 78, "no such table"),
        (_drop_revision, 78, "alembic_version, which holds the schema's revision, is gone"),
    ],
)
def test_a_database_that_only_an_operator_can_mend(
    place: Place, mistake: Callable[[Place], None], code: int, message: str
) -> None:
    assert place.run("run-once").returncode == 0
    mistake(place)
    done = place.run("--log-level", "ERROR", "run-once")
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line
    assert line.endswith("the poll waits in the spool until it is mended")
    assert place.polls("spool/spool.db") == 1
    done = place.run("check", "--offline")
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stdout
    for command in (["migrate"], ["prune", "--older-than", "1d"]):
        done = place.run(*command)
        assert "unexpected" not in done.stderr
        assert done.returncode in {0, 74, 78}
        assert len(done.stderr.splitlines()) <= 1
    for command in (["status"], ["export", "history"]):
        done = place.run(*command)
        assert "unexpected" not in done.stderr


def _closed(place: Place) -> None:
    (place.directory / "spool").mkdir()
    place.take_away("spool")


def _closed_file(place: Place) -> None:
    (place.directory / "spool").mkdir()
    (place.directory / "spool" / "spool.db").touch()
    place.take_away("spool/spool.db")


def _file(place: Place) -> None:
    (place.directory / "spool").touch()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (_closed, "spool may not be"),
        (_closed_file, "spool.db may not be"),
        (_file, "spool is not a directory"),
    ],
)
def test_a_spool_that_cannot_be_used_stops_no_poll(
    place: Place, mistake: Callable[[Place], None], message: str
) -> None:
    mistake(place)
    for _ in range(2):
        done = place.run("run-once")
        assert done.returncode == 0, done.stderr
    assert place.polls("data/order_groups.db") == 2
    done = place.run("check", "--offline")
    assert done.returncode == 74
    assert message in done.stdout
    done = place.run("status")
    assert "unexpected" not in done.stderr
    assert "main" in done.stdout


_READ_ONLY_ROOT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
while read -r _ _ _ _ where _; do
  case "$where" in
    "$1"|/proc*|/sys*) ;;
    *) mount -o remount,ro,bind "$where" 2>/dev/null || true ;;
  esac
done < /proc/self/mountinfo
cd "$1"
! touch /tmp/probe /var/tmp/probe 2>/dev/null
shift
exec "$@"
"""


@pytest.mark.skipif(
    not _ROOT or shutil.which("unshare") is None, reason="mounting takes root and unshare"
)
def test_one_writable_volume_and_no_temporary_directory(
    place: Place, exchange: Exchange, key_pair: "KeyPair"
) -> None:
    # Only the volume with the database is writable; temporary directories are read-only.
    before = ["unshare", "-m", "sh", "-c", _READ_ONLY_ROOT, "sh", str(place.directory / "data")]
    text = place.config.read_text().replace('"spool"', '"data/spool"')
    place.config.write_text(text)
    groups = exchange.groups(key_pair.key_id)
    for number in range(3):
        groups.replace(
            {"id": f"g{n}", "is_auto_cancel_enabled": False, "x": f"{number}" * 50}
            for n in range(1000 * (number + 1))
        )
        done = place.run("run-once", before=before)
        assert done.returncode == 0, done.stderr
    assert place.run("export", "changes", before=before).returncode == 0
    assert place.polls("data/order_groups.db") == 3
