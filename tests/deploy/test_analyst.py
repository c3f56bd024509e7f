"""What somebody may do who may read the database, and nothing else of the exporter's."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.demo.exchange import Exchange
from tests.conftest import RunCli, WriteConfig

EXPORTER = 65534  # the user of the service; the analyst is somebody else

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="SKIPPED LOUDLY: needs root, to give files to another user, and setpriv (util-linux)",
)


@pytest.fixture
def readable(
    exchange: Exchange, write_config: WriteConfig, run_cli: RunCli, tmp_path: Path
) -> Iterator[Path]:
    """A directory as systemd keeps it: others may read the database, and not the spool."""
    assert exchange.requests == []
    assert run_cli("--config", write_config(), "run-once").returncode == 0
    # Not below pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="exporter-analyst-") as name:
        directory = Path(name)
        for file in ("config.toml", "order_groups.db"):
            shutil.copyfile(tmp_path / file, directory / file)
            (directory / file).chmod(0o644)
        (directory / "spool").mkdir(mode=0o700)
        directory.chmod(0o755)
        for path in (directory, *directory.iterdir()):
            os.chown(path, EXPORTER, EXPORTER)
        yield directory


def ask(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # This user without the power to read what is not its own: the tests' Python may be readable
    # for nobody else.
    analyst = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    exporter = [sys.executable, "-m", "exporter", "--config", str(directory / "config.toml")]
    return subprocess.run(
        [*analyst, *exporter, *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_they_see_the_status_without_the_spool(readable: Path) -> None:
    said = ask(readable, "status", "--max-age", "1h")
    assert said.returncode == 0, said.stderr
    assert "main" in said.stdout
    assert said.stderr == (
        f"the spool {readable}/spool is for the exporter's user alone:"
        " what waits there is not counted\n"
    )


def test_they_export(readable: Path) -> None:
    said = ask(readable, "export", "polls")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.count("\n") == 2
    assert sorted(path.name for path in readable.iterdir()) == [
        "config.toml",
        "order_groups.db",
        "spool",
    ]
