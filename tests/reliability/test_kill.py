"""Run the short form of soak/kill.py."""

import subprocess
import sys
from pathlib import Path

import pytest

_SOAK = Path(__file__).parents[2] / "soak" / "kill.py"


@pytest.mark.parametrize("database", ["sqlite", "postgres", "partitions"])
def test_kills_at_random_moments_break_no_promise(database: str) -> None:
    done = subprocess.run(
        [sys.executable, _SOAK, "--kills=20", f"--database={database}", "--workers=3"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken promises" in done.stdout
