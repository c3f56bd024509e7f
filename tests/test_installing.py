"""Test that every instruction to install works."""

import re
import subprocess
from pathlib import Path

import pytest

from exporter import installing

ROOT = Path(__file__).parents[1]

_BY_NAME = re.compile(r"(?:pip|pipx|uv tool) install[^\n`]*?(?<![\w./-])kalshi-exporter(?![-\w/.])")


def test_no_text_says_to_install_an_unregistered_name() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    files = [ROOT / name for name in listed if name] or [
        *ROOT.glob("*.*"),
        *(path for name in ("docs", "deploy", "exporter") for path in (ROOT / name).rglob("*")),
    ]
    instructions = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        if path.suffix in {".md", ".py", ".toml", ".service", ".yaml", ".yml", ".plist"}
        and path.is_file()
        and path.name not in {"installing.py", "test_installing.py", "releasing.md"}
        for found in _BY_NAME.finditer(path.read_text("utf-8"))
    ]
    if installing.PUBLISHED:
        assert _BY_NAME.search((ROOT / "docs" / "install.md").read_text("utf-8"))
    else:
        assert instructions == []


@pytest.mark.parametrize(
    ("text", "by_name"),
    [
        ("pip install kalshi-exporter", True),
        ("pip install --upgrade 'kalshi-exporter[postgres]'", True),
        ("uv tool install kalshi-exporter", True),
        ("~/kalshi-exporter/bin/pip install .", False),
        ("pip install './kalshi_exporter-0.2.0-py3-none-any.whl[postgres]'", False),
        ("pip install '/srv/kalshi-exporter[postgres]'", False),
    ],
)
def test_the_pattern_finds_installations_by_name(text: str, by_name: bool) -> None:
    assert bool(_BY_NAME.search(text)) is by_name


def test_an_extra_is_installed_by_name_only_once_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installing, "PUBLISHED", False)
    assert installing.install_command("postgres") == (
        "pip install '.[postgres]' in a clone of the repository"
    )
    monkeypatch.setattr(installing, "PUBLISHED", True)
    assert installing.install_command("postgres") == "pip install 'kalshi-exporter[postgres]'"
