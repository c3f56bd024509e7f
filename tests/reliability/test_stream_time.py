"""Test a listening daemon whose wall clock is set, or whose machine sleeps."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.demo import exchange as exchange_module
from tests.support.clocks import Clocks
from tests.support.daemons import Daemon, StartDaemon, rows, wait_until

if TYPE_CHECKING:
    from exporter.demo.channel import Channel
    from exporter.demo.exchange import Exchange
    from tests.conftest import RunCli, WriteConfig

_HOUR = 3600  # seconds


@pytest.fixture(autouse=True)
def _tolerant_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exchange accept every clock, whereas the live one would refuse the handshake."""
    monkeypatch.setattr(exchange_module, "CLOCK_TOLERANCE", 10.0**10)


class Watched:
    """A listening daemon, its clocks, and its records."""

    def __init__(self, daemon: Daemon, clocks: Clocks, channel: "Channel", url: str) -> None:
        self.daemon = daemon
        self.clocks = clocks
        self._channel = channel
        self._url = url
        self.sent: list[tuple[str, datetime]] = []

    def send(self) -> None:
        """Let the exchange send an event, and return once it is recorded."""
        at = datetime.now(UTC)
        group = f"group-{len(self.sent)}"
        self.sent.append((group, at))
        self._channel.tell("triggered", group, ts_ms=int(at.timestamp() * 1000))
        wait_until(lambda: group in self.recorded, f"the event of {group}")

    @property
    def recorded(self) -> list[str]:
        """Return the groups of the recorded events."""
        return [
            row["id"]
            for row in rows(self._url, "SELECT order_group_id AS id FROM order_group_events")
        ]

    @property
    def stretches(self) -> list[dict[str, Any]]:
        """Return the stretches of stream coverage in order."""
        found = rows(
            self._url,
            "SELECT started_at, ended_at, gap_cause FROM stream_coverage ORDER BY started_at",
        )
        for row in found:
            for name in ("started_at", "ended_at"):
                if isinstance(row[name], str):
                    row[name] = datetime.fromisoformat(row[name])
        return found

    def wait_for_coverage(self, *, ahead: int = 0) -> None:
        """Return once coverage includes the daemon's present; its clock is `ahead` seconds fast."""
        shown = datetime.now(UTC) + timedelta(seconds=ahead)
        wait_until(
            lambda: any(
                each["started_at"] - shown < timedelta(minutes=1) and each["ended_at"] >= shown
                for each in self.stretches
            ),
            lambda: f"{shown} in {self.stretches}\n{self.daemon.text[-2000:]}",
        )

    def set_clocks(self, *, wall: int = 0, asleep: int = 0) -> None:
        """Set the clocks, and return once the daemon has reconnected and recorded an event."""
        connected = self.daemon.events.count("stream_connected")
        self.clocks.shift(wall=wall, asleep=asleep)
        self.daemon.wait_for_event("stream_connected", connected + 1)
        self.send()
        self.wait_for_coverage(ahead=wall)

    def assert_claims_are_right(self) -> None:
        """Check that every event is recorded, and that no stretch ends in the future."""
        assert self.recorded == [group for group, _at in self.sent]
        assert all(each["ended_at"] <= datetime.now(UTC) for each in self.stretches)
        assert {each["gap_cause"] for each in self.stretches[1:]} == {"not_listening"}


Watch = Callable[[str], Watched]


@pytest.fixture
def watch(
    exchange: "Exchange",
    key_id: str,
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> Watch:
    """Return a function that starts a daemon on a database, with clocks that a test can set."""
    clocks = Clocks(tmp_path)
    channel = exchange.channel(key_id)
    channel.ping_interval = 0.2

    def start(database_url: str) -> Watched:
        config = write_config(
            database_url=database_url, poll={"interval": "60s"}, stream={"enabled": True}
        )
        daemon = start_daemon(config, env=clocks.environment)
        daemon.wait_for_event("stream_connected")
        return Watched(daemon, clocks, channel, database_url)

    return start


def test_the_hour_that_a_clock_skips_is_a_gap(watch: Watch, database_url: str) -> None:
    watched = watch(database_url)
    watched.send()
    watched.wait_for_coverage()
    watched.set_clocks(wall=_HOUR)
    began, ahead = watched.stretches
    # The stretches leave out the skipped hour.
    assert (ahead["started_at"] - began["ended_at"]).total_seconds() > _HOUR - 60
    watched.set_clocks()  # this corrects the clock
    watched.assert_claims_are_right()
    assert watched.stretches[0] == began
    watched.daemon.kill()
    watched.assert_claims_are_right()


def test_coverage_that_a_dead_daemon_claimed_in_the_future_is_ignored(
    watch: Watch, run_cli: "RunCli", tmp_path: Path, sqlite_url: str
) -> None:
    watched = watch(sqlite_url)
    watched.wait_for_coverage()
    watched.set_clocks(wall=_HOUR, asleep=_HOUR)
    (lost,) = watched.daemon.lines("stream_disconnected")
    assert "this machine slept, or its clock was set forward: by 3600 s" in lost["message"]
    watched.daemon.kill()
    watched.clocks.shift()
    began, ahead = watched.stretches
    assert ahead["ended_at"] > datetime.now(UTC)
    status = run_cli("--config", tmp_path / "config.toml", "status", "--json")
    (account,) = json.loads(status.stdout)["accounts"]
    gap = account["stream"]["gap"]
    assert gap["cause"] == "not_listening"
    assert datetime.fromisoformat(gap["since"]) == began["ended_at"]
    # The next daemon that listens removes that coverage.
    next_one = watch(sqlite_url)
    next_one.sent = watched.sent
    next_one.send()
    next_one.wait_for_coverage()
    next_one.assert_claims_are_right()
    assert next_one.stretches[0] == began
