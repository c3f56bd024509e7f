"""An analyst who may read the database, but not the spool, can use `status` and `export`."""

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

EXPORTER = 65534  # the user id of the service, which is not the analyst's

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="SKIPPED LOUDLY: needs root, to give files to another user, and setpriv (util-linux)",
)


@pytest.fixture
def readable(
    exchange: Exchange, write_config: WriteConfig, run_cli: RunCli, tmp_path: Path
) -> Iterator[Path]:
    """Yield a directory as systemd sets it up: others may read the database, but not the spool."""
    assert exchange.requests == []
    assert run_cli("--config", write_config(), "run-once").returncode == 0
    # pytest's own directory would not do, because no other user may enter it.
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
    """Run a command as the analyst."""
    # The analyst is root without its capabilities, and not another user, because the tests' Python
    # may be readable by root alone.
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


def test_status_works_without_the_spool(readable: Path) -> None:
    said = ask(readable, "status", "--max-age", "1h")
    assert said.returncode == 0, said.stderr
    assert "main" in said.stdout
    assert said.stderr == (
        f"the spool {readable}/spool is for the exporter's user alone:"
        " what waits there is not counted\n"
    )


def test_export_works_and_leaves_no_files(readable: Path) -> None:
    said = ask(readable, "export", "polls")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.count("\n") == 2
    assert sorted(path.name for path in readable.iterdir()) == [
        "config.toml",
        "order_groups.db",
        "spool",
    ]
