"""Daemons record the events that the local exchange sends, and claim no coverage they lack."""

import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from exporter.demo.answers import Answer
from exporter.demo.channel import Channel
from exporter.demo.exchange import Exchange
from exporter.demo.groups import Groups
from tests.support.daemons import PATIENCE, Daemon, StartDaemon, rows, wait_until

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

LISTEN = {"enabled": True}
SLOW = {"interval": "60s", "deadline": "5s"}  # only events trigger further polls


@pytest.fixture
def channel(exchange: Exchange, key_id: str) -> Channel:
    """Return the account's channel, with frequent pings."""
    made = exchange.channel(key_id)
    made.ping_interval = 0.5
    return made


def events(database_url: str) -> list[tuple[str, str]]:
    """Return the group and type of each recorded event."""
    found = rows(
        database_url,
        "SELECT order_group_id, event_type FROM order_group_events"
        " ORDER BY account, order_group_id, event_at, received_at",
    )
    return [(row["order_group_id"], row["event_type"]) for row in found]


def stretches(database_url: str, account: str = "main") -> list[dict[str, Any]]:
    """Return an account's stretches of stream coverage, oldest first."""
    return rows(
        database_url,
        "SELECT started_at, ended_at, events, gap_cause FROM stream_coverage"
        f" WHERE account = '{account}' ORDER BY started_at",
    )


def wait_for_events(database_url: str, count: int) -> None:
    """Wait until exactly this many events are recorded."""

    def counted() -> int:
        return int(rows(database_url, "SELECT COUNT(*) AS n FROM order_group_events")[0]["n"])

    wait_until(lambda: counted() == count, lambda: f"{counted()} events, not {count}")


def covered_since(database_url: str, instant: datetime) -> Callable[[], bool]:
    """Return a condition that holds once the stream coverage extends past an instant."""

    def is_covered() -> bool:
        ended_at = stretches(database_url)[-1]["ended_at"]
        if isinstance(ended_at, str):
            ended_at = datetime.fromisoformat(ended_at)
        return bool(ended_at > instant)

    return is_covered


class Listening(NamedTuple):
    """A daemon that listens.

    Attributes:
        daemon: its process.
        groups: the account's groups at the exchange. The first is "a", whose creation is recorded.
    """

    daemon: Daemon
    groups: Groups


@pytest.fixture
def listening(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> Listening:
    """Return a daemon that has recorded an event on SQLite."""
    daemon = start_daemon(write_config(database_url=sqlite_url, poll=SLOW, stream=LISTEN))
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    groups = exchange.groups(key_id)
    groups.create("a")
    wait_for_events(sqlite_url, 1)
    return Listening(daemon, groups)


@contextmanager
def away(sqlite_url: str) -> Iterator[None]:
    """Move the database away while the block runs."""
    database = Path(sqlite_url.removeprefix("sqlite:///"))
    elsewhere = database.with_name("away.db")
    database.rename(elsewhere)
    yield
    elsewhere.rename(database)


def test_events_are_recorded_and_make_the_next_poll_due(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    database_url: str,
) -> None:
    daemon = start_daemon(write_config(database_url=database_url, poll=SLOW, stream=LISTEN))
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    # The start of the grid causes one poll, and the subscription may cause another.
    wait_until(lambda: daemon.events.count("poll_ok") >= 1, "a first poll")
    groups = exchange.groups(key_id)
    groups.create("a")
    wait_for_events(database_url, 1)
    wait_until(
        lambda: rows(database_url, "SELECT 1 AS seen FROM order_group_snapshots"), "its snapshot"
    )
    groups.change("a", contracts_limit_fp="7.00")
    groups.delete("a")
    wait_for_events(database_url, 3)
    assert [event_type for _group, event_type in events(database_url)] == [
        "created",
        "limit_updated",
        "deleted",
    ]
    now = exchange_now(exchange)
    wait_until(covered_since(database_url, now), "coverage of the last event")
    assert daemon.stop() == 0
    (stretch,) = stretches(database_url)
    assert (stretch["events"], stretch["gap_cause"]) == (3, None)
    assert "Traceback" not in daemon.text
    assert "unexpected" not in daemon.events


def exchange_now(exchange: Exchange) -> datetime:
    """Return the time on the exchange's clock."""
    return datetime.fromtimestamp(exchange.now(), UTC)


def test_a_killed_daemon_claims_no_coverage_of_what_it_missed(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    database_url: str,
) -> None:
    config = write_config(database_url=database_url, poll=SLOW, stream=LISTEN)
    daemon = start_daemon(config)
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    groups = exchange.groups(key_id)
    groups.create("heard")
    wait_for_events(database_url, 1)
    daemon.kill()
    channel.wait_for_subscribers(0, seconds=PATIENCE)
    groups.create("missed")
    start_daemon(config)
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    groups.create("heard-again")
    wait_for_events(database_url, 2)
    assert [group for group, _type in events(database_url)] == ["heard", "heard-again"]
    first, second = stretches(database_url)
    assert second["gap_cause"] == "not_listening"
    snapshot = "SELECT valid_from FROM order_group_snapshots WHERE order_group_id = 'missed'"
    wait_until(lambda: rows(database_url, snapshot), "a poll that sees what was missed")
    assert first["ended_at"] < second["started_at"]


def test_killing_one_of_two_daemons_loses_nothing(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    database_url: str,
) -> None:
    config = write_config(database_url=database_url, poll=SLOW, stream=LISTEN)
    one, other = start_daemon(config), start_daemon(config)
    channel.wait_for_subscribers(2, seconds=PATIENCE)
    for daemon in (one, other):
        daemon.wait_for_event("stream_connected")
    groups = exchange.groups(key_id)
    for number in range(100):
        groups.create(f"before-{number:03}")
    # The kill must wait until both daemons cover the same stretch: neither may claim coverage of
    # the time before it was subscribed.
    wait_for_events(database_url, 100)
    wait_until(covered_since(database_url, exchange_now(exchange)), "coverage by both")
    one.kill()
    for number in range(100):
        groups.create(f"after-{number:03}")
    wait_for_events(database_url, 200)
    now = exchange_now(exchange)
    wait_until(covered_since(database_url, now), "coverage of the last event")
    assert len(stretches(database_url)) == 1
    assert sum(stretch["events"] for stretch in stretches(database_url)) == 200
    assert other.stop() == 0


def test_lost_messages_cause_a_reconnection_and_a_gap_with_its_cause(
    listening: Listening, exchange: Exchange, channel: Channel, sqlite_url: str
) -> None:
    daemon, groups = listening
    lost_at = exchange_now(exchange)
    channel.skip()
    # Pings still arrive, so the daemon cannot know of the loss yet. The coverage that it claims now
    # is wrong, and has to be revoked.
    wait_until(covered_since(sqlite_url, lost_at), "coverage that is wrong")
    groups.create("b")
    daemon.wait_for_event("stream_connected", 2)
    groups.create("c")
    wait_for_events(sqlite_url, 3)  # the event that revealed the gap is kept, outside any stretch
    assert [each["gap_cause"] for each in stretches(sqlite_url)] == [None, "lost_messages"]
    assert datetime.fromisoformat(stretches(sqlite_url)[0]["ended_at"]) < lost_at
    (lost,) = [each for each in daemon.records if each["event"] == "stream_disconnected"]
    assert lost["cause"] == "lost_messages"
    assert lost["next"].startswith("connect again in ")
    # Each handshake has its own signature.
    handshakes = [
        {name.lower(): value for name, value in each.headers.items()}["kalshi-access-signature"]
        for each in exchange.handshakes
    ]
    assert len(set(handshakes)) == len(handshakes) == 2


def test_a_refused_handshake_disturbs_no_poll(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    exchange.script_handshakes(key_id, *[Answer.unauthorized()] * 50)
    daemon = start_daemon(
        write_config(database_url=sqlite_url, poll={"interval": "200ms"}, stream=LISTEN)
    )
    daemon.wait_for_event("stream_failed")
    wait_until(
        lambda: len(rows(sqlite_url, "SELECT 1 AS one FROM polls WHERE outcome = 'ok'")) >= 10,
        "polls",
    )
    assert {row["outcome"] for row in rows(sqlite_url, "SELECT outcome FROM polls")} == {"ok"}
    assert daemon.stop() == 0
    # The same failure is logged once.
    assert daemon.events.count("stream_failed") == 1


def test_sighup_applies_accounts_without_dropping_a_connection(
    exchange: Exchange,
    key_id: str,
    key_pair: "KeyPair",
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    exchange.register("second", key_pair.public_key)
    second = exchange.channel("second")
    second.ping_interval = 0.5

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def configure(*more: dict[str, Any]) -> Path:
        return write_config(
            database_url=sqlite_url,
            poll=SLOW,
            stream=LISTEN,
            metrics={"listen": address},
            more_accounts=list(more),
        )

    def connected() -> dict[str, bool]:
        with urllib.request.urlopen(f"http://{address}/metrics") as response:
            found = re.findall(r'stream_connected{account="(\w+)"} (\d)', response.read().decode())
        return {account: value == "1" for account, value in found}

    def reload(daemon: Daemon, count: int) -> None:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("reloaded", count)

    daemon = start_daemon(configure())
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    groups = exchange.groups(key_id)
    groups.create("a")
    wait_for_events(sqlite_url, 1)
    # Two accounts are added: one with the first account's key, and one with its own.
    configure({"name": "shares"}, {"name": "other", "key_id": "second"})
    reload(daemon, 1)
    second.wait_for_subscribers(1, seconds=PATIENCE)
    groups.create("b")
    wait_for_events(sqlite_url, 3)  # two of "main", one of "shares"
    wait_until(lambda: stretches(sqlite_url, "shares"), "a stretch of the account that joined")
    assert connected() == {"main": True, "shares": True, "other": True}
    configure({"name": "other", "key_id": "second"})
    reload(daemon, 2)
    groups.create("c")
    wait_for_events(sqlite_url, 4)
    configure()
    reload(daemon, 3)
    second.wait_for_subscribers(0, seconds=PATIENCE)
    groups.create("d")
    wait_for_events(sqlite_url, 5)
    assert daemon.stop() == 0
    assert [each.key_id for each in exchange.handshakes].count(key_id) == 1
    assert len(stretches(sqlite_url)) == len(stretches(sqlite_url, "shares")) == 1
    assert stretches(sqlite_url, "shares")[0]["events"] == 1


def test_many_events_delay_no_tick_and_cause_at_most_one_extra_poll_a_second(
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    seconds = 5
    daemon = start_daemon(
        write_config(database_url=sqlite_url, poll={"interval": "500ms"}, stream=LISTEN)
    )
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    wait_until(lambda: daemon.events.count("poll_ok") >= 3, "polls")
    until = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < until:
        for _ in range(100):
            channel.tell("triggered", f"group-{sent}")
            sent += 1
        time.sleep(0.02)
    wait_for_events(sqlite_url, sent)
    assert daemon.stop() == 0
    starts = [
        datetime.fromisoformat(row["started_at"])
        for row in rows(sqlite_url, "SELECT started_at FROM polls ORDER BY started_at")
    ]
    during_events = [
        each for each in starts if starts[2] <= each <= starts[2] + timedelta(seconds=5)
    ]
    ticks = seconds / 0.5
    assert ticks - 1 <= len(during_events) <= ticks + seconds + 2
    gaps = [(after - before).total_seconds() for before, after in pairwise(starts)]
    assert max(gaps[2:]) < 1.0


def test_sigterm_writes_the_last_stretch_even_while_a_poll_hangs(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    daemon = start_daemon(
        write_config(
            database_url=sqlite_url, poll={"interval": "60s", "deadline": "50s"}, stream=LISTEN
        )
    )
    channel.wait_for_subscribers(1, seconds=PATIENCE)
    wait_until(lambda: daemon.events.count("poll_ok") >= 2, "the first polls")
    exchange.script(key_id, *[Answer.hang(60)] * 5)
    exchange.groups(key_id).create("a")
    wait_for_events(sqlite_url, 1)
    before = exchange_now(exchange)
    # The pause leaves time for a ping and its pong, and for the second that an event may take to
    # arrive.
    time.sleep(3.0)
    assert daemon.stop() == 0
    assert covered_since(sqlite_url, before)()
    (row,) = rows(sqlite_url, "SELECT stream_end_cause FROM accounts")
    assert row["stream_end_cause"] == "not_listening"


def test_events_wait_in_the_spool_while_the_database_is_away(
    listening: Listening, exchange: Exchange, sqlite_url: str
) -> None:
    daemon, groups = listening
    with away(sqlite_url):
        for number in range(10):
            groups.create(f"b-{number}")
        daemon.wait_for_event("events_spooled")
        time.sleep(0.5)
    wait_for_events(sqlite_url, 11)
    daemon.wait_for_event("events_drained")
    groups.create("c")
    wait_for_events(sqlite_url, 12)
    now = exchange_now(exchange)
    wait_until(covered_since(sqlite_url, now), "coverage of the last event")
    assert daemon.stop() == 0
    (stretch,) = stretches(sqlite_url)
    assert stretch["events"] == 12


def test_a_cooldown_of_the_polls_applies_to_the_stream(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
) -> None:
    # The first handshake may take place before the first poll fails. It is refused too, so that
    # every later one falls into the cooldown.
    exchange.script(key_id, *[Answer.rate_limited("3")] * 20)
    exchange.script_handshakes(key_id, *[Answer.server_error(503)] * 2)
    daemon = start_daemon(
        write_config(poll={"interval": "200ms", "max_attempts": 1}, stream=LISTEN)
    )
    daemon.wait_for_event("poll_failed")
    before = len(exchange.handshakes)
    time.sleep(2.0)
    assert len(exchange.handshakes) <= before + 1
    exchange.channel(key_id).wait_for_subscribers(1, seconds=PATIENCE)
    assert daemon.stop() == 0


@pytest.mark.parametrize("next_one", ["a daemon that does not listen", "cron"])
def test_events_that_a_killed_daemon_left_in_the_spool_are_written_by_the_next_process(
    listening: Listening,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    sqlite_url: str,
    next_one: str,
) -> None:
    daemon, groups = listening
    with away(sqlite_url):
        groups.create("b")
        daemon.wait_for_event("events_spooled")
        time.sleep(1.0)  # the line is logged before the batch is in the spool
        daemon.kill()
    config = write_config(database_url=sqlite_url, poll=SLOW)
    if next_one == "cron":
        assert run_cli("--config", config, "run-once").returncode == 0
    else:
        start_daemon(config)
    wait_for_events(sqlite_url, 2)


def test_one_key_on_both_exchanges_serves_each_account_its_own_events(
    exchange: Exchange,
    key_id: str,
    channel: Channel,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    margin_channel = exchange.channel(key_id, "margin")
    margin_channel.ping_interval = 0.5
    others: list[dict[str, Any]] = [
        {"name": "margin", "exchange": "margin"},
        {"name": "subaccount", "subaccount": 1},
        {"name": "quiet", "stream": False},
    ]

    def recorded() -> set[tuple[str, str]]:
        found = rows(sqlite_url, "SELECT account, order_group_id FROM order_group_events")
        return {(row["account"], row["order_group_id"]) for row in found}

    def wait_for(*expected: tuple[str, str]) -> None:
        wait_until(lambda: recorded() == set(expected), lambda: f"{recorded()}, not {expected}")

    def configure(account: dict[str, Any]) -> Path:
        return write_config(
            database_url=sqlite_url,
            poll=SLOW,
            stream=LISTEN,
            account=account,
            more_accounts=others,
        )

    daemon = start_daemon(configure({}))
    for each in (channel, margin_channel):
        each.wait_for_subscribers(1, seconds=PATIENCE)
    predictions, margin = exchange.groups(key_id), exchange.groups(key_id, "margin")
    margin.create("m")
    predictions.create("p")
    predictions.create("s", subaccount=1)
    first = (("margin", "m"), ("main", "p"), ("main", "s"), ("subaccount", "s"))
    wait_for(*first)
    # One account stops listening, and the connection stays for those that share it.
    configure({"stream": False})
    daemon.reload()
    daemon.wait_for_event("reloaded")
    margin.create("m2")
    predictions.create("p2")
    predictions.create("s2", subaccount=1)
    wait_for(*first, ("margin", "m2"), ("subaccount", "s2"))
    assert daemon.stop() == 0
    assert [each.key_id for each in exchange.handshakes] == [key_id, key_id]
    assert stretches(sqlite_url, "quiet") == []
    assert {name: len(stretches(sqlite_url, name)) for name in ("margin", "main")} == {
        "margin": 1,
        "main": 1,
    }
