"""Polls of one account one after another: when not to ask, and what a gap is said to come from."""

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
    """What one process of the exporter has for the only account."""
    configuration = load(config)
    with recorder_of(configuration, configuration.accounts, stop=threading.Event()) as recorder:
        yield recorder.pollers[0]


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for pollers and for their claims, without waiting for them."""
    passed = [0.0]
    now = clock.Clock.now

    def later(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr("exporter.recording.cooldown.elapsed", lambda: clock.elapsed() + passed[0])
    monkeypatch.setattr(clock.Clock, "now", lambda self: now(self) + timedelta(seconds=passed[0]))
    return later


def due(poller: Poller, *, first: bool = False) -> Exit | None:
    # Not "just polled" any more, for which an interval is enough.
    time.sleep(0.1)
    return poller.poll_if_due(first=first)


def test_after_three_refusals_an_account_rests_for_five_minutes_and_then_recovers(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    database_url: str,
    forward: Callable[[float], None],
) -> None:
    config = write_config(database_url=database_url, poll=POLL)
    exchange.script(key_id, *[Answer.unauthorized()] * 4)
    with process(config) as one, process(config) as other:
        # Together they have refused it three times.
        assert [due(one), due(other), due(one)] == [Exit.UNAUTHORIZED] * 3
        assert (due(one), due(other)) == (None, None)
        forward(COOLDOWN - 10)
        assert (due(one), due(other)) == (None, None)
        assert len(exchange.requests) == 3
        forward(10)
        assert due(other) == Exit.UNAUTHORIZED
        assert (due(one), due(other)) == (None, None)
        assert len(exchange.requests) == 4
        forward(COOLDOWN)
        # The key works again: so does everything.
        assert [due(one), due(other), due(one)] == [Exit.OK] * 3
    assert len(rows(database_url, "SELECT * FROM polls")) == 7


def test_a_process_that_starts_asks_at_once_though_others_were_refused(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", sqlite_url: str
) -> None:
    config = write_config(database_url=sqlite_url, poll=POLL)
    exchange.script(key_id, *[Answer.unauthorized()] * 3)
    with process(config) as poller:
        assert [due(poller), due(poller), due(poller), due(poller)] == [Exit.UNAUTHORIZED] * 3 + [
            None
        ]
    with process(config) as poller:
        assert due(poller) is None
        assert due(poller, first=True) == Exit.OK


def test_a_failure_of_another_kind_ends_the_patience_with_refusals(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", sqlite_url: str
) -> None:
    refused = Answer.unauthorized()
    exchange.script(key_id, refused, refused, Answer.server_error(), refused, refused)
    with process(write_config(database_url=sqlite_url, poll=POLL)) as poller:
        assert None not in [due(poller) for _ in range(6)]


@pytest.mark.parametrize(("asked_for", "rest"), [("120", 120.0), ("86400", 300.0)])
def test_a_rate_limit_is_kept_for_as_long_as_it_asks_within_reason(  # noqa: PLR0917  # pytest passes fixtures by name
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    forward: Callable[[float], None],
    asked_for: str,
    rest: float,
) -> None:
    exchange.script(key_id, Answer.rate_limited(asked_for))
    with process(write_config(poll=POLL)) as poller:
        assert due(poller) == Exit.UNAVAILABLE
        forward(rest - 10)
        assert due(poller) is None
        assert len(exchange.requests) == 1
        forward(10)
        assert due(poller) == Exit.OK


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
        assert due(one) == Exit.UNAVAILABLE
        assert (due(one), due(other)) == (None, None)
        assert len(exchange.requests) == 1
        with process(config) as once:
            assert once.poll() == Exit.OK
        forward(110)
        assert (due(one), due(other)) == (None, None)
        forward(10)
        assert (due(other), due(one)) == (Exit.OK, Exit.OK)
    assert [row["outcome"] for row in rows(database_url, "SELECT outcome FROM polls")] == [
        "rate_limited",
        "ok",
        "ok",
        "ok",
    ]


def test_what_a_full_spool_lost_is_a_gap_with_its_cause(
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
        # Nothing that compresses.
        groups.replace([{"id": "a", "is_auto_cancel_enabled": True, "x": os.urandom(size).hex()}])
        with process(config) as poller:
            return poller.poll()

    assert poll(10) == Exit.OK
    database.rename(aside)
    database.mkdir()
    assert [poll(200_000) for _ in range(3)] == [Exit.CONFIGURATION] * 3
    assert poll(900_000) == Exit.DATABASE
    # Longer than two and a half intervals, so that it counts as a gap.
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


def test_an_outage_that_nothing_survived_is_a_gap_with_its_cause(  # noqa: PLR0917  # pytest passes fixtures by name
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    tmp_path: Path,
    postgres_server: str,
    postgres_url: str,
) -> None:
    exchange.groups(key_id).create("a")
    name = make_url(postgres_url).database
    # A file where the spool's directory should be.
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
        # Longer than two and a half intervals, so that it counts as a gap.
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
        assert (poller.poll(), due(poller)) == (Exit.OK, Exit.OK)
    assert len(exchange.requests) == 2


def test_what_waits_in_the_spool_is_written_though_another_daemon_keeps_the_claim(
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
            # The first poll's claim is over, but it counts as this tick's.
            assert other.poll_if_due(first=True) is None
            assert spool.pending() == {}
    outcomes = rows(database_url, "SELECT outcome FROM polls ORDER BY id")
    assert [row["outcome"] for row in outcomes] == ["ok", "unreachable"]
