"""Environment variables are expanded in the configuration, and never shown."""

from pathlib import Path

import pytest

from exporter.config.keys import ACCOUNT, SECTIONS
from tests.support.configuration import Directory


def test_values_come_from_the_environment_and_other_dollars_stay(directory: Directory) -> None:
    directory.environment.update(DATA="/data", UNIT="s")
    configuration = directory.load(
        '[spool]\ndirectory = "${DATA}/$x/$${DATA}/$$"\n[poll]\ninterval = "5${UNIT}"\n'
    )
    assert configuration.spool.directory == Path("/data/$x/${DATA}/$$")
    assert configuration.accounts[0].poll.interval == 5.0


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("${NOT_SET}", "environment variable NOT_SET is not set"),
        ("${NOT_SET}${NEITHER}", "NOT_SET is not set, environment variable NEITHER is not set"),
        ("${BROKEN}", "environment variable BROKEN holds a line break or control character"),
        ("${UNDECODABLE}", "environment variable UNDECODABLE holds"),
        ("${A:-b}", "must be followed by a name"),
        ("${", "must be followed by a name"),
    ],
)
def test_a_variable_that_cannot_be_used_is_a_fault(
    directory: Directory, written: str, reason: str
) -> None:
    directory.environment.update(BROKEN="hush\n", UNDECODABLE="hush\udcff")
    fault = directory.fault(f"[spool]\ndirectory = '{written}'\n")
    assert reason in fault
    assert "hush" not in fault


def test_no_fault_shows_an_expanded_value(directory: Directory) -> None:
    directory.environment["SECRET"] = "hush hush"
    text = "".join(
        f"[{section}]\n" + "".join(f'{key.name} = "${{SECRET}}"\n' for key in keys)
        for section, keys in SECTIONS.items()
        if section != "spool"
    )
    account = "[[accounts]]\n" + "".join(f'{key.name} = "${{SECRET}}"\n' for key in ACCOUNT)
    faults = directory.faults(text, account=account)
    assert len(faults) > 10
    assert "hush" not in "".join(faults)
    assert any("'${SECRET}'" in fault for fault in faults)
