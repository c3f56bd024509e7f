"""Test that listening daemons record every event of the spans they cover, whatever fails.

The tests note when they send each event. An event that was sent within a stretch of stream
coverage, by the machine's clock, must be in the database.
"""

import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo.answers import Answer
from exporter.demo.channel import Channel
from exporter.demo.exchange import Exchange
from tests.support.daemons import PATIENCE, Daemon, StartDaemon, rows, wait_until

if TYPE_CHECKING:
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import Link

LISTEN = {"enabled": True}
SLOW = {"interval": "60s", "deadline": "5s"}


class Sender:
    """A sender of events that remembers when it sent each."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        channel.ping_interval = 0.5
        self.sent: dict[str, datetime] = {}

    def send(self, count: int, *, pause: float = 0.0, **fields: Any) -> None:
        for _ in range(count):
            name = f"event-{len(self.sent)}"
            self.sent[name] = datetime.now(UTC)
            self.channel.tell("triggered", name, **fields)
            time.sleep(pause)

    def judge(self, url: str, account: str = "main") -> list[dict[str, Any]]:
        """Check that every covered event is recorded, and return the stretches."""
        found = rows(
            url,
            "SELECT started_at, ended_at, gap_cause, events FROM stream_coverage"
            f" WHERE account = '{account}' ORDER BY started_at",
        )
        stretches = [
            each | {name: instant(each[name]) for name in ("started_at", "ended_at")}
            for each in found
        ]
        recorded = self.recorded(url, account)
        for name, at in self.sent.items():
            if any(each["started_at"] <= at <= each["ended_at"] for each in stretches):
                assert name in recorded, f"{name} was sent at {at}: {stretches}"
        return stretches

    @staticmethod
    def recorded(url: str, account: str = "main") -> set[str]:
        found = rows(
            url, f"SELECT order_group_id AS id FROM order_group_events WHERE account = '{account}'"
        )
        return {row["id"] for row in found}

    def wait_until_recorded(self, url: str) -> None:
        """Return once every event that was sent is recorded."""
        wait_until(
            lambda: self.recorded(url) >= self.sent.keys(),
            lambda: f"{len(self.sent.keys() - self.recorded(url))} of {len(self.sent)} missing",
        )

    def wait_until_covered(self, url: str) -> None:
        """Return once stream coverage extends past the time of the call."""
        now = datetime.now(UTC)
        wait_until(lambda: any(each["ended_at"] > now for each in self.judge(url)), "coverage")


def instant(value: Any) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


@pytest.fixture
def sender(exchange: Exchange, key_id: str) -> Sender:
    return Sender(exchange.channel(key_id))


def test_an_outage_and_a_killed_daemon_lose_no_event(
    sender: Sender,
    link: "Link",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    postgres_url: str,
) -> None:
    config = write_config(database_url=link.url, poll=SLOW, stream=LISTEN)
    one, other = start_daemon(config), start_daemon(config)
    for daemon in (one, other):
        daemon.wait_for_event("stream_connected")
    sender.send(20)
    sender.wait_until_recorded(postgres_url)
    sender.wait_until_covered(postgres_url)
    link.refuse()
    sender.send(100, pause=0.02)
    one.wait_for_event("events_spooled")
    other.wait_for_event("events_spooled")
    one.kill()
    sender.send(100, pause=0.02)
    link.open()
    sender.send(20)
    sender.wait_until_recorded(postgres_url)
    sender.wait_until_covered(postgres_url)
    assert other.stop() == 0
    # Both daemons used one spool; the survivor drained all of it and heard every event.
    assert len(sender.judge(postgres_url)) == 1


def test_events_lost_to_a_full_spool_are_a_gap_with_its_cause(
    sender: Sender,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    daemon = start_daemon(
        write_config(database_url=sqlite_url, poll=SLOW, stream=LISTEN, spool={"max_size": "1MiB"})
    )
    sender.channel.wait_for_subscribers(1, seconds=PATIENCE)
    sender.send(10)
    sender.wait_until_recorded(sqlite_url)
    database = Path(sqlite_url.removeprefix("sqlite:///"))
    database.rename(tmp_path / "away.db")
    until = time.monotonic() + PATIENCE
    while "events_lost" not in daemon.events:
        assert time.monotonic() < until
        sender.send(2_000, note="x" * 300)
    time.sleep(1.0)
    (tmp_path / "away.db").rename(database)
    daemon.wait_for_event("events_drained")
    before = len(sender.sent)
    sender.send(10)
    wait_until(lambda: f"event-{before + 9}" in sender.recorded(sqlite_url), "the last event")
    sender.wait_until_covered(sqlite_url)
    assert daemon.stop() == 0
    causes = [each["gap_cause"] for each in sender.judge(sqlite_url)]
    assert causes[0] is None
    assert set(causes[1:]) == {"not_kept"}


def test_reloads_that_stop_listening_leave_gaps_with_a_cause(
    exchange: Exchange,
    sender: Sender,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    sqlite_url: str,
) -> None:
    exchange.register("changed", key_pair.public_key)
    changed = exchange.channel("changed")
    changed.ping_interval = 0.5
    config = write_config(database_url=sqlite_url, poll=SLOW, stream=LISTEN)
    on = config.read_text()
    daemon = start_daemon(config)
    sender.channel.wait_for_subscribers(1, seconds=PATIENCE)
    sender.wait_until_covered(sqlite_url)
    without_account = on.replace('name = "main"', 'name = "another"')
    for count, text in enumerate(
        (
            on.replace("enabled = true", "enabled = false"),
            on.replace("[[accounts]]", "[[accounts]]\nstream = false"),
            without_account,
        )
    ):
        assert text != on
        for step, (content, subscribers) in enumerate(
            ((text, int(text is without_account)), (on, 1)), start=1
        ):
            config.write_text(content)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for_event("reloaded", 2 * count + step)
            sender.channel.wait_for_subscribers(subscribers, seconds=PATIENCE)
            sender.send(5)
        wait_until(lambda: f"event-{len(sender.sent) - 1}" in sender.recorded(sqlite_url), "events")
        sender.wait_until_covered(sqlite_url)
    # Another key has another channel.
    config.write_text(on.replace(key_pair.key_id, "changed"))
    daemon.process.send_signal(signal.SIGHUP)
    changed.wait_for_subscribers(1, seconds=PATIENCE)
    sender.channel.wait_for_subscribers(0, seconds=PATIENCE)
    Sender(changed).send(1)
    sender.wait_until_covered(sqlite_url)
    assert daemon.stop() == 0
    causes = [each["gap_cause"] for each in sender.judge(sqlite_url)]
    assert causes == [None, *["not_listening"] * 4]
    assert "unexpected" not in daemon.events


def test_hostile_messages_cost_bounded_memory_and_no_poll(
    sender: Sender, write_config: "WriteConfig", start_daemon: StartDaemon, sqlite_url: str
) -> None:
    daemon = start_daemon(
        write_config(database_url=sqlite_url, poll={"interval": "500ms"}, stream=LISTEN)
    )
    sender.channel.wait_for_subscribers(1, seconds=PATIENCE)
    sender.send(10)
    sender.wait_until_recorded(sqlite_url)
    before = memory_of(daemon)
    large = {"type": "unknown", "filler": "x" * 250_000}
    for _ in range(1_000):  # 250 MB in all
        sender.channel.say(large)
    sender.send(10)
    sender.wait_until_recorded(sqlite_url)
    for hostile in ("x" * 1_000_000, "[" * 200_000, '{"type":"order_group_updates"}', b"\xff"):
        sender.channel.say(hostile)
        sender.channel.wait_for_subscribers(0, seconds=PATIENCE)
        sender.channel.wait_for_subscribers(1, seconds=PATIENCE)
    sender.send(10)
    wait_until(lambda: f"event-{29}" in sender.recorded(sqlite_url), "the last event")
    # Up to 64 messages of 256 KiB may be buffered.
    assert memory_of(daemon) - before < 60_000_000
    assert daemon.stop() == 0
    sender.judge(sqlite_url)
    outcomes = rows(sqlite_url, "SELECT DISTINCT outcome FROM polls")
    assert [row["outcome"] for row in outcomes] == ["ok"]
    assert "unexpected" not in daemon.events


def memory_of(daemon: Daemon) -> int:
    """Return the daemon's resident memory in bytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_events_before_the_first_successful_poll_are_kept(
    exchange: Exchange,
    key_id: str,
    sender: Sender,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    database_url: str,
) -> None:
    """One connection serves an account of the whole key and two of its subaccounts."""
    exchange.script(key_id, *[Answer.server_error()] * 12)
    subaccounts = [{"name": f"sub-{number}", "subaccount": number} for number in (1, 2)]
    daemon = start_daemon(
        write_config(
            database_url=database_url,
            poll={"interval": "1s", "max_attempts": 1},
            stream=LISTEN,
            more_accounts=subaccounts,
        )
    )
    sender.channel.wait_for_subscribers(1, seconds=PATIENCE)
    groups = exchange.groups(key_id)
    groups.create("mine", subaccount=1)
    groups.create("gone", subaccount=2)
    sender.send(3)
    sender.wait_until_recorded(database_url)
    wait_until(lambda: sender.recorded(database_url, "sub-1"), "events of a subaccount")
    assert daemon.stop() == 0
    assert sender.recorded(database_url, "sub-1") == {"mine"}
    assert sender.recorded(database_url, "sub-2") <= {"gone"}
    assert len(exchange.handshakes) == 1
