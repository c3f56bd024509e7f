"""`deploy` writes the shipped files, and replaces none unless it is told to."""

from pathlib import Path

import pytest

from exporter.cli.deployment import KINDS
from tests.conftest import RunCli

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_the_files_of_the_repository(kind: str, run_cli: RunCli, tmp_path: Path) -> None:
    finished = run_cli("deploy", kind)
    assert (finished.returncode, finished.stderr) == (0, "")
    written = {path.name: path.read_bytes() for path in (tmp_path / kind).iterdir()}
    assert written == {path.name: path.read_bytes() for path in (DEPLOY / kind).iterdir()}
    assert finished.stdout.splitlines() == [f"{kind}/{name}: written" for name in sorted(written)]
    again = run_cli("deploy", kind)
    assert again.stdout.splitlines() == [f"{kind}/{name}: unchanged" for name in sorted(written)]


def test_a_file_that_differs_is_replaced_only_on_request(run_cli: RunCli, tmp_path: Path) -> None:
    mine = tmp_path / "units" / "kalshi-exporter.service"
    mine.parent.mkdir()
    mine.write_text("mine")
    refused = run_cli("deploy", "systemd", "units")
    assert refused.returncode == 78
    assert refused.stderr == (
        "kalshi-exporter: units/kalshi-exporter.service is there already and differs from this"
        " version's: compare the two, then give --replace or another directory\n"
    )
    assert [path.name for path in mine.parent.iterdir()] == [mine.name]
    assert mine.read_text() == "mine"
    assert run_cli("deploy", "systemd", "units", "--replace").returncode == 0
    assert mine.read_bytes() == (DEPLOY / "systemd" / mine.name).read_bytes()


def test_a_directory_that_cannot_be_written_is_named(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = run_cli("deploy", "systemd", "file")
    assert refused.returncode == 78
    assert refused.stderr == "kalshi-exporter: cannot write file: File exists\n"
