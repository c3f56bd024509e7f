"""The crontab line of docs/cron.md works as cron runs it, and reports only failures."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import WriteConfig

PAGE = Path(__file__).parent.parent.parent / "docs/cron.md"

RunLine = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunLine]:
    """Yield a function that runs the line without environment or terminal, in another directory."""
    found = re.search(r"^\* \* \* \* \* (.+)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(config: Path) -> "subprocess.CompletedProcess[str]":
        line = found[1]
        for written, here in (
            ("$HOME/kalshi-exporter/bin/kalshi-exporter", f"{sys.executable} -m exporter"),
            ("$HOME/kalshi/config.toml", str(config)),
        ):
            assert written in line
            line = line.replace(written, here)
        return subprocess.run(
            ["/bin/sh", "-c", line],
            env={},
            cwd=elsewhere,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=90,
            check=False,
        )

    yield run
    assert list(elsewhere.iterdir()) == []


def test_a_successful_run_prints_nothing(
    write_config: "WriteConfig", run_line: RunLine, exchange: Exchange, key_id: str, tmp_path: Path
) -> None:
    # The first attempt fails, but the second succeeds.
    exchange.script(key_id, Answer.server_error())
    finished = run_line(write_config())
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert (tmp_path / "order_groups.db").exists()


FAILURES: dict[str, tuple[dict[str, Any], int, str]] = {
    "the exchange": ({}, 69, "poll_failed"),
    "the key": ({"account": {"private_key_file": "gone.pem"}}, 78, "gone.pem"),
    "the configuration": ({"poll": {"interval": "never"}}, 78, "poll.interval"),
    "the schema": ({"database": {"auto_migrate": False}}, 78, "migrate"),
    "the database": ({"database_url": "postgresql+psycopg://u@127.0.0.1:1/x"}, 75, "spooled"),
}


@pytest.mark.parametrize("failing", FAILURES)
def test_a_failed_run_prints_one_line(
    write_config: "WriteConfig", run_line: RunLine, exchange: Exchange, key_id: str, failing: str
) -> None:
    settings, code, said = FAILURES[failing]
    if failing == "the exchange":
        exchange.script(key_id, *[Answer.server_error()] * 9)
    account = {"name": "Größe"} | settings.get("account", {})
    config = write_config(**(settings | {"account": account}))
    finished = run_line(config)
    assert (finished.returncode, finished.stdout) == (code, "")
    (line,) = finished.stderr.splitlines()
    assert said in line
    assert "Traceback" not in line
    if code != 78:
        assert "Größe" in line


def test_overlapping_runs_do_no_harm(
    write_config: "WriteConfig", run_line: RunLine, exchange: Exchange, key_id: str
) -> None:
    config = write_config(poll={"interval": "60s", "deadline": "40s"})
    assert run_line(config).returncode == 0
    asked, answered = threading.Event(), threading.Event()

    def slowly(_request: object) -> Answer:
        asked.set()
        answered.wait(30)
        return Answer(body=b"{}")

    exchange.script(key_id, slowly)
    finished: list[subprocess.CompletedProcess[str]] = []
    first = threading.Thread(target=lambda: finished.append(run_line(config)))
    first.start()
    try:
        assert asked.wait(60)
        second = run_line(config)
    finally:
        answered.set()
        first.join(60)
    assert second.returncode == 75
    (line,) = second.stderr.splitlines()
    assert "another exporter is polling this account" in line
    assert [(each.returncode, each.stderr) for each in finished] == [(0, "")]
