"""The recipes of docs/upgrading.md lead to the next version, and back."""

import os
import re
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


def git(directory: Path, *arguments: str) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", *author, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone at this version, whose origin already has the next version."""
    origin = tmp_path / "origin"
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", "__pycache__", "*.db", "dist", "tests", "docs", "site"
    )
    shutil.copytree(ROOT, origin, ignore=ignored)
    git(origin, "init", "--quiet")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "this version")
    (tag,) = re.findall("^git checkout (.*)$", recipe(_PAGE, "sh downgrade"), re.MULTILINE)
    git(origin, "tag", tag)
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    for path, text, other in (
        ("exporter/__init__.py", f'"{__version__}"', f'"{_NEW_VERSION}"'),
        ("exporter/history/schema.py", f'"{REVISION}"', f'"{_NEW_REVISION}"'),
    ):
        content = (origin / path).read_text("utf-8")
        assert text in content
        (origin / path).write_text(content.replace(text, other), "utf-8")
    (origin / "migrations" / "versions" / "9000_next.py").write_text(_MIGRATION)
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "next version")
    return tmp_path / "clone"


@pytest.fixture
def installed(tmp_path: Path, clone: Path) -> Iterator[dict[str, str]]:
    """Install this version in a virtual environment in the test's directory.

    The exporter's dependencies come from the tests' environment; another test installs them from
    the index.

    Yields:
        The variables that pip needs.
    """
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # pip reads the last variable as --no-build-isolation.
    env = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    subprocess.run(
        [tmp_path / "bin" / "pip", "install", "-q", clone],
        env=env | {"PATH": os.environ["PATH"]},
        check=True,
    )
    yield env
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "daemon.pid").read_text()), SIGKILL)


def wait_for_polls(directory: Path, version: str, more: int = 2) -> None:
    """Wait until this version has written this many more successful polls."""

    def count() -> int:
        with closing(sqlite3.connect(directory / "order_groups.db")) as connection:
            query = "SELECT count(*) FROM polls WHERE exporter_version = ? AND outcome = 'ok'"
            return int(connection.execute(query, (version,)).fetchone()[0])

    wanted, until = None, time.monotonic() + 30
    while True:
        with suppress(sqlite3.OperationalError):  # the first migration is still running
            now = count()
            wanted = now + more if wanted is None else wanted
            if now >= wanted:
                return
        assert time.monotonic() < until, (directory / "daemon.log").read_text()
        time.sleep(0.05)


def test_the_upgrade_and_downgrade_recipes(
    installed: dict[str, str],
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    tmp_path: Path,
) -> None:
    exchange.groups(key_pair.key_id).create("a")
    write_config(poll={"interval": "0.3s"})
    path = os.pathsep.join([str(tmp_path / "bin"), commands(tmp_path / "commands")])
    subprocess.run(
        ["systemctl", "start", "kalshi-exporter"], cwd=tmp_path, env={"PATH": path}, check=True
    )
    wait_for_polls(tmp_path, __version__)

    said = run_recipe(
        _PAGE, "sh upgrade", tmp_path, path=path, env=installed, cwd=tmp_path / "clone"
    )
    assert f"The schema went from {REVISION} to {_NEW_REVISION}; the database as it was is" in said
    assert "\nmain     ok " in said
    wait_for_polls(tmp_path, _NEW_VERSION)
    with closing(sqlite3.connect(tmp_path / "order_groups.db")) as connection:
        states = connection.execute("SELECT order_group_id FROM order_group_snapshots").fetchall()
        assert states == [("a",)]
        connection.execute("SELECT of_the_next_version FROM polls")

    run_recipe(_PAGE, "sh downgrade", tmp_path, path=path, env=installed, cwd=tmp_path / "clone")
    wait_for_polls(tmp_path, __version__)
    with closing(sqlite3.connect(tmp_path / "order_groups.db")) as connection:
        causes = connection.execute("SELECT cause FROM coverage_gaps").fetchall()
        assert causes[-1] == ("not_running",)
        columns = connection.execute("SELECT * FROM polls").description
        assert "of_the_next_version" not in [column[0] for column in columns]


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
