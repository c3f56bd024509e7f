"""Test that an error of every poll is logged only when it begins, changes and ends."""

import ast
import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange
from exporter.errors import Exit
from exporter.hooks import AccountsChanged
from exporter.logs.deduplication import RepeatFilter
from tests.support.events import poll_finished
from tests.support.processes import ending

if TYPE_CHECKING:
    from tests.conftest import WriteConfig

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 90.0  # seconds; a test normally waits one or two

WELL = poll_finished()
FAILED = poll_finished(outcome="server_error", exit_code=Exit.UNAVAILABLE)

log = logging.getLogger("exporter.recording.reporting")


@pytest.fixture
def repeats(caplog: pytest.LogCaptureFixture) -> Iterator[RepeatFilter]:
    caplog.set_level(logging.INFO, logger="exporter")
    made = RepeatFilter()
    made.receive(AccountsChanged({"main": 60.0, "other": 60.0}))
    made.attach()
    yield made
    made.detach()


def fail(repeats: RepeatFilter, text: str, *, account: str = "main", **facts: Any) -> None:
    log.error("%s", text, extra={"event": "poll_failed", "account": account, **facts})
    repeats.receive(replace(FAILED, account=account))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_repeated_failure_is_logged_once_until_it_changes_or_ends(
    repeats: RepeatFilter, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(5):
        fail(repeats, f"failed in {second}.5 s, port {second}", http_status=503)
    fail(repeats, "failed in 5.5 s, port 5", http_status=502)
    fail(repeats, "failed in 6.5 s, port 6", http_status=503)
    repeats.receive(WELL)
    repeats.receive(WELL)
    fail(repeats, "failed in 7.5 s, port 7", http_status=503)
    assert messages(caplog) == [
        "failed in 0.5 s, port 0",
        "failed in 5.5 s, port 5",
        "failed in 6.5 s, port 6",
        "polled again; 7 polls failed since 2026-11-23T14:03:00Z",
        "failed in 7.5 s, port 7",
    ]
    facts = [vars(record) for record in caplog.records]
    assert [each.get("failed_polls") for each in facts] == [None, 5, 6, 7, None]
    assert facts[3]["suppressed"] == 4
    assert facts[3]["levelname"] == "WARNING"


def test_each_account_is_deduplicated_by_itself(
    repeats: RepeatFilter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        fail(repeats, "failed")
        fail(repeats, "failed", account="other")
        fail(repeats, "failed", account="nobody's")
    assert messages(caplog) == ["failed"] * 5
    repeats.receive(AccountsChanged({"main": 60.0}))
    fail(repeats, "failed", account="other")
    assert messages(caplog) == ["failed"] * 6


def test_retries_that_succeed_are_logged_once(
    repeats: RepeatFilter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        for attempt in (1, 2):
            log.warning(
                "the exchange failed",
                extra={"event": "attempt_failed", "account": "main", "attempt": attempt},
            )
        repeats.receive(WELL)
    assert messages(caplog) == ["the exchange failed"]


def test_successes_and_debug_logs_are_never_suppressed(
    repeats: RepeatFilter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.info("polled", extra={"account": "main"})
        repeats.receive(WELL)
    caplog.set_level(logging.DEBUG, logger="exporter")
    fail(repeats, "failed")
    fail(repeats, "failed")
    assert messages(caplog) == ["polled"] * 3 + ["failed"] * 2


def test_the_daemon_logs_an_outage_in_a_few_lines(
    write_config: "WriteConfig", exchange: Exchange, key_id: str
) -> None:
    exchange.script(key_id, *[Answer.server_error()] * 12)
    config = write_config(
        poll={"interval": "200ms", "deadline": "5s", "max_attempts": 1}, log={"format": "json"}
    )
    file = config.parent / "daemon.log"
    with file.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config", str(config), "daemon"], stderr=stderr
        )
    with ending(process):
        until = time.monotonic() + TIMEOUT
        while '"recovered"' not in file.read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    events = [record["event"] for record in records]
    assert events.count("poll_failed") == 1
    (recovered,) = [record for record in records if record["event"] == "recovered"]
    assert recovered["failed_polls"] == 12
    assert recovered["message"].startswith("polled again; 12 polls failed since 20")


def events_in(tree: ast.AST) -> Iterator[str]:
    """Yield the log events that a module names in a dictionary or passes to `self._warn`."""
    for node in ast.walk(tree):
        named: ast.expr | None = None
        match node:
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "event":
                        named = value
            case ast.Call(func=ast.Attribute(attr="_warn"), args=[first, *_]):
                named = first
        if isinstance(named, ast.IfExp):  # one of two event names
            yield from (str(ast.literal_eval(each)) for each in (named.body, named.orelse))
        elif isinstance(named, ast.Constant):
            yield str(named.value)


def test_the_docs_list_every_log_event_and_no_other() -> None:
    found = {
        event
        for file in (ROOT / "exporter").rglob("*.py")
        if "demo" not in file.parts
        for event in events_in(ast.parse(file.read_text("utf-8")))
    }
    assert "stream_failed" in found
    page = (ROOT / "docs/logs.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == found
    stream = (ROOT / "docs/stream.md").read_text("utf-8")
    table = stream.partition("| log event | says |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`((?:stream|events)_\w+)`", table)) == {
        event for event in found if event.startswith(("stream_", "events_"))
    }


def test_another_exception_behind_the_same_message_is_logged(
    repeats: RepeatFilter, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (LookupError("a"), LookupError("b"), AttributeError("c")):
        facts = {"event": "unexpected", "account": "main"}
        log.error("unexpected failure", exc_info=error, extra=facts)
        repeats.receive(FAILED)
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [
        LookupError,
        AttributeError,
    ]
