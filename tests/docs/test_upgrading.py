"""The recipes of docs/upgrading.md, run as they stand there: the new version, and back."""

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest

from exporter import __version__
from exporter.demo.exchange import Exchange
from exporter.history.schema import REVISION
from tests.support.recipes import ROOT, commands, recipe, run_recipe

if TYPE_CHECKING:
    # Tests are no package: these are for the type checker alone.
    from tests.conftest import KeyPair, RunCli, WriteConfig

_PAGE = "upgrading.md"
_NEW_VERSION, _NEW_REVISION = "9.9.9", "9000"

_MIGRATION = f'''
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{_NEW_REVISION}", "{REVISION}"


def upgrade() -> None:
    op.add_column("polls", sa.Column("of_the_next_version", sa.Integer))
'''


def build(directory: Path, links: Path, *, new: bool) -> subprocess.Popen[bytes]:
    """Begin to build a wheel of the checkout, or of what may follow it."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", "__pycache__", "*.db", "dist", "tests", "docs", "site"
    )
    shutil.copytree(ROOT, directory, ignore=ignored)
    if new:
        for path, text, other in (
            ("exporter/__init__.py", f'"{__version__}"', f'"{_NEW_VERSION}"'),
            ("exporter/history/schema.py", f'"{REVISION}"', f'"{_NEW_REVISION}"'),
        ):
            content = (directory / path).read_text("utf-8")
            assert text in content
            (directory / path).write_text(content.replace(text, other), "utf-8")
        (directory / "migrations" / "versions" / "9000_next.py").write_text(_MIGRATION)
    command = ["-m", "build", "--no-isolation", "--wheel", "--outdir", str(links)]
    return subprocess.Popen([sys.executable, *command], cwd=directory, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of this version and of one to come."""
    directory = tmp_path_factory.mktemp("wheels")
    building = [
        build(directory / f"source-{new}", directory / "links", new=new) for new in (True, False)
    ]
    assert [process.wait(120) for process in building] == [0, 0]
    return directory / "links"


@pytest.fixture
def installed(tmp_path: Path, wheels: Path) -> Iterator[dict[str, str]]:
    """An environment in the test's directory with this version; what pip needs to know.

    What the exporter depends on is the tests' own: another test installs it from the index.
    """
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_FIND_LINKS": str(wheels)}
    subprocess.run(
        [tmp_path / "bin" / "pip", "install", "-q", f"kalshi-exporter=={__version__}"],
        env=env | {"PATH": os.environ["PATH"]},
        check=True,
    )
    yield env
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "daemon.pid").read_text()), SIGKILL)


def wait_for_polls(directory: Path, version: str, more: int = 2) -> None:
    """Return once this version has written so many polls more than there are."""

    def count() -> int:
        with closing(sqlite3.connect(directory / "order_groups.db")) as connection:
            query = "SELECT count(*) FROM polls WHERE exporter_version = ? AND outcome = 'ok'"
            return int(connection.execute(query, (version,)).fetchone()[0])

    wanted, until = None, time.monotonic() + 30
    while True:
        with suppress(sqlite3.OperationalError):  # the first migration is under way
            now = count()
            wanted = now + more if wanted is None else wanted
            if now >= wanted:
                return
        assert time.monotonic() < until, (directory / "daemon.log").read_text()
        time.sleep(0.05)


def test_the_new_version_over_the_old_and_back(
    installed: dict[str, str],
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    tmp_path: Path,
) -> None:
    exchange.groups(key_pair.key_id).create("a")
    write_config(poll={"interval": "0.3s"})
    path = commands(tmp_path / "commands")
    subprocess.run(
        ["systemctl", "start", "kalshi-exporter"], cwd=tmp_path, env={"PATH": path}, check=True
    )
    wait_for_polls(tmp_path, __version__)

    said = run_recipe(_PAGE, "sh upgrade", tmp_path, path=path, env=installed)
    assert f"schema {REVISION}: the first poll migrates it to {_NEW_REVISION}" in said
    assert f"The schema went from {REVISION} to {_NEW_REVISION}; the database as it was is" in said
    assert "\nmain     ok " in said
    wait_for_polls(tmp_path, _NEW_VERSION)
    with closing(sqlite3.connect(tmp_path / "order_groups.db")) as connection:
        states = connection.execute("SELECT order_group_id FROM order_group_snapshots").fetchall()
        assert states == [("a",)]
        connection.execute("SELECT of_the_next_version FROM polls")

    run_recipe(_PAGE, "sh downgrade", tmp_path, path=path, env=installed)
    wait_for_polls(tmp_path, __version__)
    with closing(sqlite3.connect(tmp_path / "order_groups.db")) as connection:
        causes = connection.execute("SELECT cause FROM coverage_gaps").fetchall()
        assert causes[-1] == ("not_running",)
        columns = connection.execute("SELECT * FROM polls").description
        assert "of_the_next_version" not in [column[0] for column in columns]


def test_the_page_names_this_version() -> None:
    assert f"=={__version__}'" in recipe(_PAGE, "sh downgrade")


def test_the_pruning_recipe(
    exchange: Exchange, write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    write_config()
    for _ in range(3):
        assert run_cli("run-once").returncode == 0
    assert len(exchange.requests) == 3
    with closing(sqlite3.connect(tmp_path / "order_groups.db")) as connection, connection:
        connection.execute("UPDATE polls SET started_at = '2020-01-01T00:00:00.000000Z'")
    said = run_recipe(_PAGE, "sh prune", tmp_path, path=commands(tmp_path / "commands"))
    counts = [line.split()[0] for line in said.splitlines()]
    assert counts == ["2", "2"]
    assert "would be dropped" in said
