"""The command line: help, version, usage errors, `init`, `migrate` and unexpected failures."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from exporter import __version__
from exporter.cli import main
from exporter.demo.exchange import Exchange
from exporter.history.schema import REVISION
from exporter.resources import shipped

if TYPE_CHECKING:
    from tests.conftest import RunCli, WriteConfig


def imported(directory: Path, *arguments: str) -> set[str]:
    """Return the top-level modules that a command had imported when it ended."""
    program = (
        "import json, sys\n"
        "from exporter.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        env={"HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout.splitlines()[-1]))


def imported_by_python_alone(directory: Path) -> set[str]:
    """Return the top-level modules that Python has imported once it has started."""
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; print(*{name.partition('.')[0] for name in sys.modules})",
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(finished.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run-once", "--help"]])
def test_help_needs_click_alone(tmp_path: Path, arguments: list[str]) -> None:
    modules = imported(tmp_path, *arguments)
    # A virtual environment's start-up files may import modules of their own.
    started = imported_by_python_alone(tmp_path)
    assert modules - sys.stdlib_module_names - started == {"click", "exporter"}


@pytest.mark.usefixtures("exchange")
def test_run_once_with_a_current_schema_needs_no_scheduler_and_no_alembic(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    config = str(write_config())
    assert run_cli("--config", config, "migrate").returncode == 0
    modules = imported(tmp_path, "--config", config, "run-once")
    assert "sqlalchemy" in modules
    assert not {"apscheduler", "alembic", "psycopg", "hypothesis"} & modules


@pytest.mark.parametrize("name", [*main.commands])
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    assert f"kalshi-exporter {name}" in " ".join(
        word for word in shown.output.split() if not word.startswith(("--config", "/"))
    )


def test_version_shows_the_packages_version(run_cli: "RunCli") -> None:
    shown = run_cli("--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"kalshi-exporter, version {__version__}\n"


def test_without_a_command_the_help_is_shown(run_cli: "RunCli") -> None:
    shown = run_cli()
    assert shown.returncode == 2
    assert "run-once" in shown.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run-once", "--nonsense"],
        ["--log-level", "LOUD", "run-once"],
        ["init", "a", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(run_cli: "RunCli", arguments: list[str]) -> None:
    finished = run_cli(*arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("Usage: ")


def test_init_writes_a_private_file_that_says_what_to_fill_in(
    run_cli: "RunCli", tmp_path: Path
) -> None:
    finished = run_cli("init")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "kalshi-exporter check" in finished.stdout
    written = tmp_path / "config.toml"
    assert written.read_bytes() == shipped("config.example.toml").read_bytes()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    # `run-once` finds the file in its working directory, and misses only the key, which no file
    # can ship.
    after = run_cli("run-once")
    assert after.returncode == 78
    assert "accounts[0].key_id: is still what `kalshi-exporter init` wrote" in after.stderr
    written.write_text(written.read_text().replace("put-your-key-id-here", "0123456789abcdef"))
    after = run_cli("run-once")
    assert after.returncode == 78
    assert "kalshi.pem" in after.stderr


def test_migrate_says_what_it_did(
    write_config: "WriteConfig", run_cli: "RunCli", database_url: str
) -> None:
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=database_url)
    first, second = (run_cli("--config", config, "migrate") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == f"The schema went from nothing to {REVISION}.\n"
    assert second.stdout == f"The schema is at revision {REVISION} already.\n"


def test_an_unexpected_failure_is_one_line_and_a_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, write_config: "WriteConfig"
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a defect\nwith \x1b[2J a second line")

    monkeypatch.setattr("exporter.run_once.run", fail)
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2")
    arguments = ["--config", str(config), "run-once"]
    monkeypatch.delenv("KALSHI_EXPORTER_TRACEBACK", raising=False)
    finished = CliRunner().invoke(main, arguments)
    assert finished.exit_code == 1
    (line,) = finished.stderr.splitlines()
    assert "unexpected LookupError: a defect with [2J a second line; please report it" in line
    monkeypatch.setenv("KALSHI_EXPORTER_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(main, arguments).exception, LookupError)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["status", "--config", "x.toml"], "--config goes before the command"),
        (["status", "--config=x.toml"], "--config goes before the command"),
        (["run-once", "--log-level", "DEBUG"], "--log-level goes before the command"),
        (["--json", "status"], "--json goes after the command: "),
        (["--account", "main", "run-once"], "run-once or export or report --account"),
        (["staus"], "status"),
        (["status", "--jsn"], "--json"),
        (["export", "groups", "-o", ""], "must name a file"),
        (["--config", "", "status"], "must name a file"),
        (["init", ""], "must name a file"),
        (["demo", "--directory", ""], "must name a file"),
    ],
)
def test_wrong_usage_has_a_hint(run_cli: "RunCli", arguments: list[str], hint: str) -> None:
    finished = run_cli(*arguments)
    assert finished.returncode == 2
    assert hint in finished.stderr


def test_init_writes_to_standard_output_too(run_cli: "RunCli", tmp_path: Path) -> None:
    finished = run_cli("init", "-")
    assert finished.stdout == shipped("config.example.toml").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_a_dash_is_standard_output(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    write_config(base_url="http://127.0.0.1:1/trade-api/v2")
    assert run_cli("migrate").returncode == 0
    run_cli("run-once")
    exported = run_cli("export", "polls", "-o", "-")
    assert exported.stdout.count("\n") == 2
    drawn = run_cli("report", "-o", "-")
    assert drawn.stdout.lower().startswith("<!doctype html>")
    assert drawn.stderr.startswith("Wrote -: ")
    assert not (tmp_path / "-").exists()


def test_an_account_or_group_without_records_is_named(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    exchange.groups(key_id).create("group-1")
    write_config(poll={"interval": "1h"})
    assert run_cli("run-once").returncode == 0
    typo = run_cli("export", "history", "--group", "typo", "--group", "group-1")
    assert typo.stderr == "typo: no poll has seen this order group\n"
    assert "group-1" in typo.stdout
    assert run_cli("export", "groups", "--group", "group-1").stderr == ""
    assert run_cli("export", "history", "--account", "typo").stderr == (
        "typo: nothing is recorded\n"
    )
    assert run_cli("report", "--account", "typo").stderr == "typo: nothing is recorded\n"


VARIABLES = {
    "key_id": "${KEY_ID}",
    "private_key_file": "${KEY_FILE}",
    "private_key_passphrase_file": "${PASSPHRASE_FILE}",
    "base_url": "${BASE_URL}",
}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["migrate"], 0),
        (["status"], 1),
        (["export", "groups"], 0),
        (["report"], 0),
        (["prune", "--older-than", "1d"], 0),
        (["check", "--offline"], 78),
        (["run-once"], 78),
        (["daemon"], 78),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_commands_that_only_read_need_no_variables_but_the_databases(
    write_config: "WriteConfig", run_cli: "RunCli", arguments: list[str], code: int
) -> None:
    base_url = "http://127.0.0.1:1/trade-api/v2"
    write_config(base_url=base_url)
    run_cli("run-once")
    write_config(
        base_url=base_url,
        account=VARIABLES,
        notify={"healthcheck_url": "${HEALTHCHECK}"},
        http={"proxy": "http://me:${PROXY_PASSWORD}@proxy.example:1"},
    )
    finished = run_cli(*arguments)
    assert finished.returncode == code, finished.stderr
    if code == 78:
        assert finished.stderr.count("is not set") == len(VARIABLES) + 2


def test_commands_that_only_read_need_the_databases_variables(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config(
        base_url="http://127.0.0.1:1/trade-api/v2",
        database_url="postgresql://me:${DB_PASSWORD}@127.0.0.1:1/kalshi",
    )
    finished = run_cli("status")
    assert finished.returncode == 78
    assert "environment variable DB_PASSWORD is not set" in finished.stderr
