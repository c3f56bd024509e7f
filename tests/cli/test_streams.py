"""Every command copes with standard streams that are closed, full, abandoned or in any encoding."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo.exchange import Exchange
from tests.support.processes import ending

if TYPE_CHECKING:
    from tests.conftest import RunCli, WriteConfig

COMMANDS = [
    ["--help"],
    ["--version"],
    ["export", "--help"],
    ["init", "made.toml"],
    ["init", "-"],
    ["check", "--offline"],
    ["migrate"],
    ["status"],
    ["status", "--json"],
    ["export", "groups"],
    ["export", "history", "-o", "-"],
    ["export", "polls", "--format=jsonl"],
    ["export", "polls", "--format=parquet"],
    ["prune", "--older-than=1d"],
    ["report"],
    ["report", "-o", "-"],
    ["deploy", "systemd"],
    ["demo", "--seconds=1"],
]

Run = Callable[..., "subprocess.CompletedProcess[Any]"]


@pytest.fixture
def run(write_config: "WriteConfig", exchange: Exchange, key_id: str, run_cli: "RunCli") -> Run:
    """Return a function that runs a command on a database with one poll."""
    exchange.groups(key_id).create("group-1")
    config = write_config(poll={"interval": "1h"})  # never stale
    assert run_cli("run-once").returncode == 0

    def run(
        arguments: list[str], *, env: Mapping[str, str] | None = None, **streams: Any
    ) -> "subprocess.CompletedProcess[Any]":
        return subprocess.run(
            [sys.executable, "-m", "exporter", *arguments],
            cwd=config.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(config.parent)} | dict(env or {}),
            timeout=60,
            check=False,
            **{"stderr": subprocess.PIPE, "text": True} | streams,
        )

    return run


def _close(*descriptors: int) -> Callable[[], None]:
    """Return a function that closes these descriptors, for `preexec_fn`."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def test_a_closed_output_is_one_line(run: Run) -> None:
    line = "kalshi-exporter: cannot write to standard output: Bad file descriptor\n"
    for arguments in COMMANDS:
        finished = run(arguments, preexec_fn=_close(1))
        assert (arguments, finished.returncode, finished.stderr) == (arguments, 74, line)


def test_a_command_whose_reader_is_gone_exits_as_after_sigpipe(run: Run) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in COMMANDS:
            finished = run(arguments, stdout=writing)
            assert (arguments, finished.returncode, finished.stderr) == (arguments, 141, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
def test_a_full_output_is_one_line(run: Run) -> None:
    line = "kalshi-exporter: cannot write to standard output: No space left on device\n"
    with Path("/dev/full").open("wb") as full:
        for arguments in COMMANDS:
            finished = run(arguments, stdout=full)
            assert (arguments, finished.returncode, finished.stderr) == (arguments, 74, line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run-once"], 0),
        (["check", "--offline"], 0),
        (["status"], 0),
        (["export", "groups", "--group=typo"], 0),
        (["nonsense"], 2),
        (["status", "--nonsense"], 2),
        (["--config=none.toml", "status"], 78),
    ],
    ids=str,
)
def test_a_closed_or_full_stderr_changes_no_exit_code(
    run: Run, arguments: list[str], code: int
) -> None:
    closed = run(arguments, stdout=subprocess.PIPE, preexec_fn=_close(2), stderr=None)
    assert closed.returncode == code
    with Path("/dev/full").open("wb") as full:
        assert run(arguments, stdout=subprocess.PIPE, stderr=full).returncode == code


def test_no_database_is_opened_on_a_standard_streams_descriptor(run: Run, tmp_path: Path) -> None:
    for arguments in (["run-once"], ["export", "groups", "-o", "groups.csv"]):
        finished = run(arguments, preexec_fn=_close(0, 1, 2), stderr=None)
        assert finished.returncode == 0
    assert (tmp_path / "order_groups.db").read_bytes().startswith(b"SQLite format 3\0")
    assert "group-1" in (tmp_path / "groups.csv").read_text()


def test_a_reader_that_leaves_a_large_export_early_causes_no_error_message(
    run: Run, exchange: Exchange, key_id: str, tmp_path: Path
) -> None:
    for number in range(5_000):
        exchange.groups(key_id).create(f"another-group-{number}")
    assert run(["run-once"]).returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", "export", "history"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "shift_jis", "utf-16"])
def test_every_command_works_in_every_encoding(run: Run, tmp_path: Path, encoding: str) -> None:
    config = tmp_path / "config.toml"
    text = config.read_text(encoding="utf-8").replace('"main"', '"Größe → 名 😀"')
    config.write_text(text, encoding="utf-8")
    environment = {"PYTHONIOENCODING": encoding}
    for arguments in (
        ["run-once"],
        ["--help"],
        ["check", "--offline"],
        ["status"],
        ["status", "--json"],
        ["export", "groups"],
        ["report", "-o", "-"],
    ):
        finished = run(arguments, env=environment, stdout=subprocess.PIPE, text=False)
        assert finished.returncode == 0, finished.stderr
        if arguments == ["status", "--json"]:
            document = json.loads(str(finished.stdout, encoding))
            names = [each["account"] for each in document["accounts"]]
            assert names == ["Größe → 名 😀"]
    for arguments, code in (
        (["run-once", "--account=ö→"], 2),
        (["--config=ö→.toml", "status"], 78),
    ):
        finished = run(arguments, env=environment, stdout=subprocess.PIPE, text=False)
        assert finished.returncode == code, finished.stderr


def test_a_command_exits_on_ctrl_c_as_after_sigint(
    write_config: "WriteConfig", exchange: Exchange, key_id: str
) -> None:
    from exporter.demo.answers import Answer

    exchange.script(key_id, Answer.hang(60))
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "--config", str(write_config()), "run-once"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with ending(process):
        exchange.wait_for_requests(1, seconds=60)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read().endswith("kalshi-exporter: interrupted\n")


@pytest.mark.parametrize("columns", ["1", "20", "500"])
def test_help_and_status_fit_any_terminal(run: Run, columns: str) -> None:
    for arguments in (["--help"], ["export", "--help"], ["status"]):
        finished = run(arguments, env={"COLUMNS": columns}, stdout=subprocess.PIPE)
        assert (finished.returncode, finished.stderr) == (0, "")


def test_help_shows_whole_summaries(run_cli: "RunCli") -> None:
    shown = run_cli("--help").stdout
    assert "…" not in shown
    assert "..." not in shown.replace("[ARGS]...", "")
