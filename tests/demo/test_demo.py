"""What the demo prints agrees with its database and with what happened on the exchange."""

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo.exchange import Exchange
from exporter.demo.market import Market
from exporter.demo.place import find_place
from exporter.demo.run import SEED
from exporter.errors import ConfigurationError
from tests.support.processes import ending

if TYPE_CHECKING:
    from tests.conftest import RunCli

SECONDS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run a whole demo, and return what it printed into a pipe and its directory."""
    directory = tmp_path_factory.mktemp("demo") / "it's here"
    began = time.monotonic()
    done = subprocess.run(
        [*command(directory), "--seconds", str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < SECONDS + 10
    return done.stdout, directory


def command(directory: Path) -> list[str]:
    return [sys.executable, "-m", "exporter", "demo", "--directory", str(directory)]


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(directory / "order_groups.db")) as connection:
        return connection.execute(query).fetchall()


def replay(output: str) -> tuple[dict[str, tuple[str, int]], set[str]]:
    """Repeat the market's steps that a demo printed.

    Returns:
        The limit and the flag of each group at the end, and the groups that were deleted.
    """
    printed = re.findall(r"^\d\d:\d\d:\d\d  exchange  (.*)$", output, re.MULTILINE)
    with Exchange() as exchange:
        market = Market(exchange, "key", SEED)
        groups = exchange.groups("key")
        seen = {group["id"] for group in groups.listing()}
        for line in printed:
            assert market.step() == line
            seen |= {group["id"] for group in groups.listing()}
        remaining = {
            group["id"]: (group["contracts_limit_fp"], int(group["is_auto_cancel_enabled"]))
            for group in groups.listing()
        }
    return remaining, seen - remaining.keys()


def test_the_history_is_what_the_market_did(finished: tuple[str, Path]) -> None:
    output, directory = finished
    remaining, deleted = replay(output)
    current = rows(
        directory,
        "SELECT order_group_id, contracts_limit, is_auto_cancel_enabled FROM order_groups_current",
    )
    assert {group_id: (limit, enabled) for group_id, limit, enabled in current} == remaining
    assert not rows(directory, "SELECT 1 FROM order_groups_current WHERE missing_since NOTNULL")
    ended = {
        group_id
        for (group_id,) in rows(
            directory,
            "SELECT order_group_id FROM order_group_snapshots WHERE end_reason = 'removed'",
        )
    }
    assert deleted
    assert ended == deleted


def test_the_printed_polls_are_the_recorded_ones(finished: tuple[str, Path]) -> None:
    output, directory = finished
    printed = dict(re.findall(r"  exporter  poll (\d+)(:.*groups| failed)", output))
    recorded = rows(directory, "SELECT id, outcome FROM polls ORDER BY id")
    (attempts,) = rows(directory, "SELECT SUM(attempts) FROM polls")[0]
    assert len(recorded) >= SECONDS
    assert {int(number): "failed" in what for number, what in printed.items()} == {
        number: outcome != "ok" for number, outcome in recorded
    }
    assert output.count("; retry in ") == attempts - len(recorded) > 0
    failed = sum(outcome != "ok" for _, outcome in recorded)
    assert failed > 0
    assert f"{failed} of {len(recorded)} polls failed" in output


def test_the_summary_agrees_with_the_views(finished: tuple[str, Path]) -> None:
    output, directory = finished
    for query, heading in (
        ("SELECT COUNT(*) FROM order_groups_current", "{} groups at the end"),
        (
            "SELECT COUNT(*) FROM order_group_changes WHERE not_before IS NOT NULL",
            "{} changes",
        ),
    ):
        assert heading.format(rows(directory, query)[0][0]) in output
    for (group_id,) in rows(directory, "SELECT order_group_id FROM order_groups_current"):
        assert re.search(rf"^  {group_id[:8]} ", output, re.MULTILINE)
    assert str(directory / "order_groups.db") in output
    assert str(directory / "config.toml") in output


def test_a_pipe_gets_plain_lines_of_80_columns(finished: tuple[str, Path]) -> None:
    output, directory = finished
    assert output.isascii()
    assert all(character.isprintable() or character == "\n" for character in output)
    paths = (str(directory.parent), sys.executable)
    assert not [
        line
        for line in output.splitlines()
        if len(line) > 80 and not any(path in line for path in paths)
    ]


def test_the_demos_files_are_private(finished: tuple[str, Path]) -> None:
    _, directory = finished
    for name in ("demo-key.pem", "config.toml", "order_groups.db"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def blocks(output: str) -> dict[str, str]:
    """Return the text below each heading, up to an empty line."""
    parts = (part.partition("\n") for part in output.split("\n\n"))
    return {heading.strip(): rest for heading, _, rest in parts}


def test_the_sql_that_it_shows_gives_the_rows_that_it_shows(
    finished: tuple[str, Path],
) -> None:
    output, directory = finished
    heading, query = next(
        each for each in blocks(output).items() if each[0].startswith("What existed")
    )
    assert heading.endswith("(SQL for any client of SQLite)")
    existed = rows(directory, query)
    assert len(existed) > 5
    shown = re.findall(r"^  ([0-9a-f-]{36}) +(\S+)  (triggered|active)$", output, re.MULTILINE)
    assert shown == [
        (group_id, limit, "triggered" if flag else "active")
        for group_id, limit, flag in existed[:4]
    ]
    assert f"  and {len(existed) - 4} more rows\n" in output


def test_the_commands_that_it_names_work(finished: tuple[str, Path], tmp_path: Path) -> None:
    output, directory = finished
    cd, report, as_of, history = blocks(output)["Ask more, where the files are"].splitlines()

    def run(command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{cd} && {command}"],
            env={"PATH": str(tmp_path)},  # the commands need no other program, not even sqlite3
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        return done.stdout

    assert "order groups: " in run(report)
    assert (directory / "report.html").stat().st_size > 10_000
    existed = run(as_of).splitlines()
    assert len(existed) > 5
    assert history.split()[-1] in run(history)
    begun = blocks(output)["Record an account of your own"]
    assert begun.split()[-1] == "init"


def test_it_continues_in_the_directory_of_an_earlier_demo(
    finished: tuple[str, Path], tmp_path: Path
) -> None:
    _, directory = finished
    done = subprocess.run(
        [*command(directory), "--seconds", "1"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "goes on" in done.stdout
    remaining, _ = replay(done.stdout)
    current = rows(directory, "SELECT order_group_id FROM order_groups_current")
    assert {group_id for (group_id,) in current} == remaining.keys()


def running(directory: Path) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Run a demo of a minute during the block."""
    return ending(
        subprocess.Popen(
            [*command(directory), "--seconds", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_the_summary(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "exporter  poll 1:" in line:
                break
        process.send_signal(number)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    assert "12 groups at the end" in output
    assert "0 of 1 poll failed" in output
    assert "Record an account of your own" in blocks(output)


@pytest.mark.parametrize("name", ["config.toml", "demo-key.pem", "order_groups.db"])
def test_files_that_are_not_from_a_demo_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigurationError, match=f"{name} is not from a demo"):
        find_place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_directory_that_cannot_be_made_is_one_line(run_cli: "RunCli", tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_cli("demo", "--directory", tmp_path / "file" / "demo")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "file" / "demo") in done.stderr


def test_a_missing_temporary_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    with pytest.raises(ConfigurationError, match="name a --directory"):
        find_place(None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_one_line(run_cli: "RunCli", tmp_path: Path) -> None:
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o500)
    done = run_cli("demo", "--directory", directory)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1


def test_the_recorded_triggers_are_those_of_the_market(finished: tuple[str, Path]) -> None:
    output, directory = finished
    acted = re.findall(r"  exchange  group (\w+) triggers", output)
    heard = re.findall(r"  exporter  heard: group (\w+) triggered, recorded \d+ ms later", output)
    recorded = rows(
        directory,
        "SELECT order_group_id FROM order_group_triggers ORDER BY triggered_at",
    )
    assert [group_id[:8] for (group_id,) in recorded] == acted == heard
    shown = re.search(r"^(\d+) triggers?; polling alone would show (\d+)", output, re.MULTILINE)
    assert shown is not None
    assert int(shown[1]) == len(recorded) >= int(shown[2])
