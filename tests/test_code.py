"""Run the linters and type checker, so that one command checks everything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "tool",
    [
        ["ruff", "check", "--quiet", "."],
        ["ruff", "format", "--check", "--quiet", "."],
        ["mypy", "--no-error-summary"],
        # import-linter has no module to run, only a command.
        ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    ],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_a_tool_finds_nothing(tool: list[str]) -> None:
    arguments = tool if tool[0] == "-c" else ["-m", *tool]
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "exporter").rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}


def test_ci_runs_a_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in a checkout")
    assert os.access(script, os.X_OK)
    command = script.read_text().splitlines()[-1]
    assert "pytest" in command
    assert command in (ROOT / "README.md").read_text().splitlines()


def test_the_public_ci_installs_optional_tools_and_runs_the_same_script() -> None:
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    if not workflow.exists():
        pytest.skip("not in a checkout")
    steps = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]["tests"]["steps"]
    installing, running = [step["run"] for step in steps if "run" in step]
    assert running == ".ci/run"
    for package in ("chromium", "faketime", "pgbouncer", "prometheus", "sqlite3", "systemd"):
        assert package in installing.split()
