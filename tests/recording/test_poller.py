"""Test successive polls of one account: cooldowns, claims, and the causes of gaps."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url

from exporter import clock
from exporter.config.load import load
from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange
from exporter.errors import Exit
from exporter.model import Poll
from exporter.recording.cooldown import COOLDOWN
from exporter.recording.poller import Poller
from exporter.wiring import recorder_of, spool_of
from tests.support.daemons import rows

if TYPE_CHECKING:
    from tests.conftest import WriteConfig

POLL = {"interval": "100ms", "deadline": "5s", "max_attempts": 1}


@contextmanager
def process(config: Path) -> Iterator[Poller]:
    """Yield the poller that one exporter process has for the only account."""
    configuration = load(config)
    with recorder_of(configuration, configuration.accounts, stop=threading.Event()) as recorder:
        yield recorder.pollers[0]


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that moves the clock of pollers and claims forward by some seconds."""
    passed = [0.0]
    now = clock.Clock.now

    def move(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr("exporter.recording.cooldown.elapsed", lambda: clock.elapsed() + passed[0])
    monkeypatch.setattr(clock.Clock, "now", lambda self: now(self) + timedelta(seconds=passed[0]))
    return move


def poll_next(poller: Poller, *, first: bool = False) -> Exit | None:
    # After a whole interval, the account no longer counts as just polled.
    time.sleep(0.1)
    return poller.poll_if_due(first=first)


def test_after_three_refusals_an_account_cools_down_for_five_minutes(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    database_url: str,
    forward: Callable[[float], None],
) -> None:
    config = write_config(database_url=database_url, poll=POLL)
    exchange.script(key_id, *[Answer.unauthorized()] * 4)
    with process(config) as one, process(config) as other:
        # Refusals count for the account, whichever process was refused.
        assert [poll_next(one), poll_next(other), poll_next(one)] == [Exit.UNAUTHORIZED] * 3
        assert (poll_next(one), poll_next(other)) == (None, None)
        forward(COOLDOWN - 10)
        assert (poll_next(one), poll_next(other)) == (None, None)
        assert len(exchange.requests) == 3
        forward(10)
        assert poll_next(other) == Exit.UNAUTHORIZED
        assert (poll_next(one), poll_next(other)) == (None, None)
        assert len(exchange.requests) == 4
        forward(COOLDOWN)
        # Once the key works again, every process polls again.
        assert [poll_next(one), poll_next(other), poll_next(one)] == [Exit.OK] * 3
    assert len(rows(database_url, "SELECT * FROM polls")) == 7


def test_the_first_poll_of_a_process_ignores_the_cooldown(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", sqlite_url: str
) -> None:
    config = write_config(database_url=sqlite_url, poll=POLL)
    exchange.script(key_id, *[Answer.unauthorized()] * 3)
    with process(config) as poller:
        assert [poll_next(poller), poll_next(poller), poll_next(poller), poll_next(poller)] == [
            Exit.UNAUTHORIZED
        ] * 3 + [None]
    with process(config) as poller:
        assert poll_next(poller) is None
        assert poll_next(poller, first=True) == Exit.OK


def test_a_failure_of_another_kind_resets_the_count_of_refusals(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", sqlite_url: str
) -> None:
    refused = Answer.unauthorized()
    exchange.script(key_id, refused, refused, Answer.server_error(), refused, refused)
    with process(write_config(database_url=sqlite_url, poll=POLL)) as poller:
        assert None not in [poll_next(poller) for _ in range(6)]


@pytest.mark.parametrize(("asked_for", "rest"), [("120", 120.0), ("86400", 300.0)])
def test_a_rate_limit_is_honored_up_to_five_minutes(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    forward: Callable[[float], None],
    asked_for: str,
    rest: float,
) -> None:
    exchange.script(key_id, Answer.rate_limited(asked_for))
    with process(write_config(poll=POLL)) as poller:
        assert poll_next(poller) == Exit.UNAVAILABLE
        forward(rest - 10)
        assert poll_next(poller) is None
        assert len(exchange.requests) == 1
        forward(10)
        assert poll_next(poller) == Exit.OK


def test_a_rate_limit_binds_all_daemons_of_the_account(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    database_url: str,
    forward: Callable[[float], None],
) -> None:
    exchange.script(key_id, Answer.rate_limited("120"))
    config = write_config(database_url=database_url, poll=POLL)
    with process(config) as one, process(config) as other:
        assert poll_next(one) == Exit.UNAVAILABLE
        assert (poll_next(one), poll_next(other)) == (None, None)
        assert len(exchange.requests) == 1
        with process(config) as once:
            assert once.poll() == Exit.OK
        forward(110)
        assert (poll_next(one), poll_next(other)) == (None, None)
        forward(10)
        assert (poll_next(other), poll_next(one)) == (Exit.OK, Exit.OK)
    assert [row["outcome"] for row in rows(database_url, "SELECT outcome FROM polls")] == [
        "rate_limited",
        "ok",
        "ok",
        "ok",
    ]


def test_polls_lost_to_a_full_spool_are_a_gap_with_its_cause(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    tmp_path: Path,
    sqlite_url: str,
) -> None:
    groups = exchange.groups(key_id)
    config = write_config(database_url=sqlite_url, poll=POLL, spool={"max_size": "1MiB"})
    database, aside = tmp_path / "order_groups.db", tmp_path / "aside.db"

    def poll(size: int) -> Exit:
        # Random data does not compress.
        groups.replace([{"id": "a", "is_auto_cancel_enabled": True, "x": os.urandom(size).hex()}])
        with process(config) as poller:
            return poller.poll()

    assert poll(10) == Exit.OK
    database.rename(aside)
    database.mkdir()
    assert [poll(200_000) for _ in range(3)] == [Exit.CONFIGURATION] * 3
    assert poll(900_000) == Exit.DATABASE
    # A pause of over two and a half intervals counts as a gap.
    time.sleep(0.3)
    assert poll(900_000) == Exit.DATABASE
    database.rmdir()
    aside.rename(database)
    assert poll(10) == Exit.OK
    assert poll(10) == Exit.OK
    polls = rows(sqlite_url, "SELECT outcome FROM polls")
    assert [row["outcome"] for row in polls] == ["ok"] * 6
    causes = [row["cause"] for row in rows(sqlite_url, "SELECT * FROM coverage_gaps")]
    assert causes[-1] == "not_kept"


def test_polls_kept_nowhere_are_a_gap_with_its_cause(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    tmp_path: Path,
    postgres_server: str,
    postgres_url: str,
) -> None:
    exchange.groups(key_id).create("a")
    name = make_url(postgres_url).database
    # The spool cannot be created, because a file has the name of its directory.
    (tmp_path / "spool").write_text("")
    with (
        process(write_config(database_url=postgres_url, poll=POLL)) as poller,
        psycopg.connect(postgres_server, autocommit=True) as server,
    ):
        assert poller.poll() == Exit.OK
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        assert poller.poll() == Exit.DATABASE
        # A pause of over two and a half intervals counts as a gap.
        time.sleep(0.3)
        assert poller.poll() == Exit.DATABASE
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert poller.poll() == Exit.OK
    (gap,) = rows(postgres_url, "SELECT cause FROM coverage_gaps")
    assert gap["cause"] == "not_kept"


def test_a_spool_that_cannot_be_read_stops_no_poll(
    exchange: Exchange, write_config: "WriteConfig", tmp_path: Path, sqlite_url: str
) -> None:
    config = write_config(database_url=sqlite_url, poll=POLL)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.db").write_text("no database, but long enough to be one" * 9)
    with process(config) as poller:
        assert (poller.poll(), poll_next(poller)) == (Exit.OK, Exit.OK)
    assert len(exchange.requests) == 2


def test_the_spool_is_drained_though_another_daemon_polled_this_tick(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    database_url: str,
) -> None:
    exchange.groups(key_id).create("a")
    config = write_config(database_url=database_url, poll={**POLL, "interval": "60s"})
    spooled = Poll(
        account="main",
        started_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
        outcome="unreachable",
        attempts=1,
    )
    with process(config) as one, process(config) as other:
        assert one.poll_if_due(first=True) == Exit.OK
        with closing(spool_of(load(config))) as spool:
            spool.put(spooled)
            # The claim has ended, but the poll of `one` counts as the poll of this tick.
            assert other.poll_if_due(first=True) is None
            assert spool.pending() == {}
    outcomes = rows(database_url, "SELECT outcome FROM polls ORDER BY id")
    assert [row["outcome"] for row in outcomes] == ["ok", "unreachable"]
