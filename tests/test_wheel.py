"""Test that the wheel, installed alone, works like the checkout."""

import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter import __version__
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import WriteConfig

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout that may contain untracked files."""
    directory = tmp_path_factory.mktemp("build")
    source = directory / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "*.db", "dist"),
    )
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", cwd=source)
    (built,) = (source / "dist").iterdir()
    return built


def test_the_wheel_contains_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        example = archive.read("exporter/config.example.toml")
    assert example == (ROOT / "config.example.toml").read_bytes()
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "exporter").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    beside = {
        f"exporter/{path.relative_to(ROOT)}"
        for directory in ("deploy", "migrations")
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"exporter/migrations/env.py", "exporter/deploy/systemd/config.toml"} <= beside
    metadata = f"kalshi_exporter-{__version__}.dist-info/"
    others = {name for name in names if not name.startswith(metadata)}
    assert others == modules | beside | {"exporter/config.example.toml"}
    assert f"{metadata}licenses/LICENSE" in names


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install only the wheel into an environment, and return the directory of its commands.

    The dependencies come from the package index, as for an operator, so that the tests fail if
    the wheel does not declare one.
    """
    environment = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=environment.parent)
    run(
        environment / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        # Compiling everything would take longer than the tests.
        "--no-compile",
        wheel,
        cwd=environment.parent,
    )
    return environment / "bin"


@pytest.fixture(params=["command", "module"])
def exporter(request: pytest.FixtureRequest, installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs the installed command outside the checkout."""
    commands: dict[str, list[str | Path]] = {
        "command": [installed / "kalshi-exporter"],
        "module": [installed / "python", "-m", "exporter"],
    }
    command = commands[request.param]
    return lambda *arguments: run(*command, *arguments, cwd=tmp_path)


def test_the_installed_command_works_from_anywhere(
    exporter: Callable[..., str], exchange: Exchange, write_config: "WriteConfig", tmp_path: Path
) -> None:
    assert exporter("--version").strip().endswith(__version__)
    assert "run-once" in exporter("--help")
    assert "Wrote new.toml" in exporter("init", "new.toml")
    assert (tmp_path / "new.toml").read_bytes() == (ROOT / "config.example.toml").read_bytes()
    write_config(database_url="sqlite:///first.db")
    assert exporter("run-once") == ""
    assert len(exchange.requests) == 1
    with closing(sqlite3.connect(tmp_path / "first.db")) as connection:
        assert connection.execute("SELECT outcome FROM polls").fetchall() == [("ok",)]
    write_config(database_url="sqlite:///second.db")
    assert "The schema went from nothing to" in exporter("migrate")
