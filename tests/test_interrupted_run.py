"""Test that an interrupted run releases its claims, so that the next run can poll at once."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import RunCli, WriteConfig

LONG = {"interval": "60s", "deadline": "20s", "max_attempts": 1}


def _begin(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "exporter", f"--config={config}", "run-once"],
        cwd=config.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(config.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("accounts", [1, 3])
def test_a_run_that_a_signal_ends_releases_its_claims(
    number: signal.Signals,
    accounts: int,
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    names = [f"more-{each}" for each in range(accounts - 1)]
    config = write_config(
        database_url=database_url, poll=LONG, more_accounts=[{"name": name} for name in names]
    )
    exchange.script(key_id, *[Answer.hang(3)] * accounts)
    process = _begin(config)
    try:
        _wait(lambda: len(exchange.requests) == accounts)
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    if number != signal.SIGKILL:
        # Another host cannot see that the process has ended, so the claim itself must end.
        claims = _execute(database_url, "SELECT claimed_until FROM accounts")
        assert claims == [(None,)] * accounts
    finished = run_cli("run-once")
    assert finished.returncode == 0, finished.stderr


def test_a_busy_account_names_the_run_that_claims_it(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    config = write_config(database_url=database_url, poll=LONG)
    exchange.script(key_id, Answer.hang(60))
    process = _begin(config)
    try:
        _wait(lambda: exchange.requests)
        finished = run_cli("run-once")
    finally:
        process.kill()
        process.communicate()
    assert finished.returncode == 75
    [line] = finished.stderr.splitlines()
    claimed = rf"Claimed by {re.escape(socket.gethostname())}:{process.pid} until (\d\d:\d\d:\d\dZ)"
    match = re.search(claimed, line)
    assert match, line
    now = datetime.now(UTC)
    ends = {f"{now + timedelta(seconds=each):%H:%M:%SZ}" for each in range(-5, 22)}
    assert match[1] in ends


def test_a_run_whose_poll_could_not_be_written_releases_its_claim(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    write_config(database_url=database_url, poll=LONG)
    exchange.groups(key_id).create("one")
    assert run_cli("run-once").returncode == 0
    _execute(
        database_url,
        "CREATE TRIGGER full BEFORE INSERT ON polls BEGIN SELECT RAISE(FAIL, 'full'); END"
        if database_url.startswith("sqlite")
        else "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$;"
        " CREATE TRIGGER full_disk BEFORE INSERT ON polls EXECUTE FUNCTION full_disk()",
    )
    failed = run_cli("run-once")
    assert failed.returncode in {74, 75}, failed.stderr
    again = run_cli("run-once")
    assert "another exporter" not in again.stderr
    _execute(
        database_url,
        "DROP TRIGGER full"
        if database_url.startswith("sqlite")
        else "DROP TRIGGER full_disk ON polls",
    )
    assert run_cli("run-once").returncode == 0


def _execute(database_url: str, statement: str) -> list[Any]:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        rows = list(map(tuple, result)) if result.returns_rows else []
    engine.dispose()
    return rows
