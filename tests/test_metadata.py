"""Test the wheel's metadata: links that work on a package index, and no guessed URLs."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
URL = "https://example.com/owner/name"


def metadata(directory: Path, url: str | None) -> Message:
    source = directory / "source"
    names = ("exporter", "migrations", "deploy", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in (*names, "hatch_build.py", "config.example.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(directory)],
        cwd=source,
        env={"REPOSITORY_URL": url} if url else {},
        capture_output=True,
        timeout=120,
        check=True,
    )
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/METADATA")]
        return email.message_from_bytes(archive.read(name))


def links(message: Message) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", str(message.get_payload()))


def test_a_release_has_links_that_work_on_an_index(tmp_path: Path) -> None:
    found = metadata(tmp_path, URL)
    assert f"Source, {URL}" in found.get_all("Project-URL", [])
    relative = [each for each in links(found) if not each.startswith(("https://", "#"))]
    assert relative == []
    assert f"{URL}/blob/HEAD/docs/install.md" in links(found)
    assert f"{URL}/raw/HEAD/docs/demo.svg" in links(found)


def test_a_build_without_a_repository_url_has_no_project_url(tmp_path: Path) -> None:
    found = metadata(tmp_path, None)
    assert found.get_all("Project-URL") is None
    assert "docs/install.md" in links(found)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_ci_tests_every_python_of_the_classifiers(version: str) -> None:
    assert f'"Programming Language :: Python :: {version}"' in (ROOT / "pyproject.toml").read_text()
    assert f'"{version}"' in (ROOT / ".github/workflows/tests.yml").read_text()
