"""The units in deploy/systemd/ pass systemd's own checks and match the program."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.errors import Exit

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "systemd"
UNITS = sorted([*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")])
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]

# A restart cannot fix the causes of these exit codes.
FINAL = {Exit.USAGE, Exit.CONFIGURATION}

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze (Debian: systemd) is missing"
)


def setting(unit: Path, section: str, key: str) -> list[str]:
    """Return the words of a setting in a unit."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parser.read(unit)
    return parser.get(section, key).split()


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_no_fault(unit: Path, tmp_path: Path) -> None:
    # All units are copied, because the timer refers to a service. Their program is replaced by one
    # that exists on this machine.
    for each in UNITS:
        text = each.read_text().replace("/opt/kalshi-exporter/bin/kalshi-exporter", "/bin/true")
        (tmp_path / each.name).write_text(text)
    finished = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure_is_at_most_two_of_ten(unit: Path) -> None:
    finished = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", finished.stdout)
    assert found is not None, finished.stderr
    assert float(found[1]) <= 2.0


def test_both_services_have_the_same_hardening() -> None:
    daemon, once = (unit.read_text().partition("# A dedicated user")[2] for unit in SERVICES[::-1])
    assert daemon
    assert daemon.partition("\n\n[Install]")[0].strip() == once.strip()


def test_no_restart_follows_an_exit_that_only_a_person_can_fix() -> None:
    codes = setting(DEPLOY / "kalshi-exporter.service", "Service", "RestartPreventExitStatus")
    assert {int(code) for code in codes} == FINAL


def test_the_daemon_gets_enough_time_to_stop() -> None:
    from exporter.daemon.scheduler import _STOP_SECONDS

    (seconds,) = setting(DEPLOY / "kalshi-exporter.service", "Service", "TimeoutStopSec")
    assert float(seconds.removesuffix("s")) >= _STOP_SECONDS + 2


def test_the_page_and_the_units_agree() -> None:
    page = (ROOT / "docs/systemd.md").read_text()
    for unit in UNITS:
        assert unit.name in page
    for key in ("StateDirectory", "LoadCredential", "WatchdogSec"):
        assert key in page
