"""Test the progress bar of an export, which only a terminal sees."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.model import OrderGroup


@pytest.fixture
def directory(sqlite_recorder: Any, write_config: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a directory with a configuration and a history of 12,000 order groups."""
    sqlite_recorder.ok(0, [OrderGroup(f"group-{number:05}", True) for number in range(12_000)])
    write_config(database_url=sqlite_recorder.url, base_url="http://127.0.0.1:9/trade-api/v2")
    return tmp_path


def run(directory: Path, *arguments: str) -> tuple[str, bytes]:
    """Run an export with a terminal as stderr, and return what stderr and stdout receive."""
    ours, theirs = pty.openpty()
    output = directory / "stdout"
    with (
        output.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "exporter", "export", *arguments],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "80"},
            stdout=sink,
            stderr=theirs,
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65_536):
                shown += part
        except OSError:  # Linux raises this once the other end is closed
            pass
        assert process.wait(60) == 0, shown
    os.close(ours)
    return shown.decode(), output.read_bytes()


def test_a_terminal_sees_the_progress(directory: Path) -> None:
    shown, output = run(directory, "history", "-o", "history.csv")
    assert output == b""
    states = re.findall(r"history +\[[#-]+\] +(\d+)/12000 +(\d+)%", shown)
    assert states[0] == ("0", "0")
    assert ("5000", "41") in states
    assert states[-1] == ("12000", "100")
    assert shown.endswith("\x1b[?25h\r\n")  # the cursor is visible again, on a new line
    assert (directory / "history.csv").read_text().count("\n") == 12_001


def test_rows_on_stdout_have_no_bar(directory: Path) -> None:
    shown, output = run(directory, "history")
    assert shown == ""
    assert output.count(b"\n") == 12_001


def test_an_empty_export_finishes_its_bar(directory: Path) -> None:
    shown, _ = run(directory, "gaps", "-o", "gaps.csv")
    assert "0/0" in shown


def test_a_pipe_sees_no_bar(
    directory: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_cli("export", "history", "-o", "history.csv")
    assert (done.stdout, done.stderr) == ("", "")
    assert (directory / "history.csv").exists()
