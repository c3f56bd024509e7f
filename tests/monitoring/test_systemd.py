"""Test the messages to systemd, on datagram sockets like those it listens on."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock

import pytest

from exporter.daemon.pollers import Pollers
from exporter.daemon.scheduler import Scheduler
from exporter.daemon.watch import Watch
from exporter.demo.exchange import Exchange
from exporter.hooks import (
    AccountsChanged,
    DaemonReady,
    DaemonReloaded,
    DaemonReloadFailed,
    DaemonReloading,
    DaemonStopping,
    Heartbeat,
    Hooks,
)
from exporter.monitoring.health import Health
from exporter.monitoring.systemd import systemd
from tests.support.events import AT, poll_finished
from tests.support.processes import ending

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from exporter.recording.recorder import Recorder
    from tests.conftest import WriteConfig

TIMEOUT = 60.0  # seconds; a test normally waits one or two


class Manager:
    """systemd's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(TIMEOUT)

    def receive(self) -> list[str]:
        """Return the lines of the next message."""
        return self._socket.recv(4096).decode().split("\n")

    def receive_until(self, start: str) -> list[str]:
        """Return all lines up to the first message that has a line with this start."""
        lines: list[str] = []
        while not any(line.startswith(start) for line in lines):
            lines += self.receive()
        return lines

    def silent_for(self, seconds: float) -> bool:
        """Return whether no message arrives in this time."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT)
        return False

    def discard(self) -> None:
        """Discard the messages that have arrived."""
        while not self.silent_for(0.01):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    listening = Manager(path if request.param == "path" else f"@exporter-{os.getpid()}-{id(path)}")
    yield listening
    listening.close()


def test_messages_follow_the_protocol(manager: Manager) -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    notifier = systemd(health, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})
    assert notifier is not None
    assert notifier.heartbeat_seconds == 1.5
    notifier.receive(DaemonReady())
    assert manager.receive() == [
        "READY=1",
        "STATUS=1 account, 1 stale, 0 order groups, no success yet",
    ]
    notifier.receive(Heartbeat())
    assert manager.receive() == ["WATCHDOG=1"]
    health.receive(poll_finished(last_success_at=AT, groups=1))
    notifier.receive(Heartbeat())
    status = "STATUS=1 account, 1 order group, last success 2026-11-23T14:03:00Z"
    assert manager.receive() == ["WATCHDOG=1", status]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.receive(DaemonReloading())
    reloading, monotonic = manager.receive()
    assert reloading == "RELOADING=1"
    assert before <= int(monotonic.removeprefix("MONOTONIC_USEC=")) < before + 10_000_000
    notifier.receive(DaemonReady())
    assert manager.receive() == ["READY=1"]
    notifier.receive(DaemonStopping())
    assert manager.receive()[0] == "STOPPING=1"


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTIFY_SOCKET": "/x"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_watchdog_that_is_not_for_this_process_is_not_fed(environment: dict[str, str]) -> None:
    notifier = systemd(Health(), environment)
    assert notifier is not None
    assert notifier.heartbeat_seconds == 5.0
    assert not notifier._watched


@pytest.mark.parametrize("address", [None, "", "vsock:2:1"])
def test_without_systemd_nothing_is_sent(address: str | None) -> None:
    assert systemd(Health(), {} if address is None else {"NOTIFY_SOCKET": address}) is None


def test_a_missing_socket_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = systemd(Health(), {"NOTIFY_SOCKET": str(tmp_path / "nothing")})
    assert notifier is not None
    Hooks(notifier).emit(DaemonReady())
    (record,) = caplog.records
    assert vars(record)["event"] == "listener_failed"


def test_a_stuck_scheduler_starves_the_watchdog(manager: Manager) -> None:
    notifier = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert notifier is not None
    daemon = Scheduler(
        cast("Recorder", Mock(pollers=[], stream=Mock(sources=[]))),
        stop=threading.Event(),
        hooks=Hooks(notifier),
        heartbeat_seconds=notifier.heartbeat_seconds,
    )
    release = threading.Event()
    daemon.start()
    try:
        for _ in range(3):
            assert "WATCHDOG=1" in manager.receive()
        daemon._scheduler.add_job(
            release.wait, executor="heartbeat"
        )  # this blocks the scheduler's thread
        time.sleep(0.3)
        manager.discard()
        assert manager.silent_for(0.5)
        release.set()
        assert "WATCHDOG=1" in manager.receive()
    finally:
        release.set()
        daemon.stop()


def daemon_of(config: Path, manager: Manager) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    return ending(
        subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config", str(config), "daemon"],
            env={**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"},
            stderr=subprocess.DEVNULL,
        )
    )


def test_the_daemon_from_start_to_end(
    write_config: "WriteConfig", exchange: Exchange, key_id: str, manager: Manager
) -> None:
    exchange.groups(key_id).create("g-1")
    config = write_config(poll={"interval": "500ms"})
    with daemon_of(config, manager) as process:
        assert manager.receive()[0] == "READY=1"
        assert (config.parent / "order_groups.db").exists()
        manager.receive_until("STATUS=1 account, 1 order group, last success ")
        manager.receive_until("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        manager.receive_until("RELOADING=1")
        manager.receive_until("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.receive_until("STOPPING=1")
        assert process.wait(20) == 0


def test_the_daemon_is_ready_while_the_database_is_away(
    write_config: "WriteConfig", manager: Manager
) -> None:
    # Nothing listens on that port, so polls wait in the spool.
    config = write_config(database_url="postgresql+psycopg://u@127.0.0.1:1/db")
    with daemon_of(config, manager) as process:
        assert manager.receive()[0] == "READY=1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_with_another_versions_schema_the_daemon_is_never_ready(
    write_config: "WriteConfig", manager: Manager
) -> None:
    config = write_config(database={"auto_migrate": False})
    with daemon_of(config, manager) as process:
        assert process.wait(TIMEOUT) == 78
    assert manager.silent_for(0.05)


def test_a_poll_that_hangs_starves_the_watchdog(
    manager: Manager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert notifier is not None
    now = [0.0]
    monkeypatch.setattr("exporter.daemon.pollers.elapsed", lambda: now[0])
    poller = Mock(account="main", timing=Mock(deadline=20.0))
    pollers = Pollers(cast("Recorder", Mock(pollers=[poller])), threading.Event())
    watch = Watch(Hooks(notifier), pollers.hanging)
    assert pollers.begin("main", is_tick=True).poller is poller
    now[0] = 319.0
    watch.beat()
    assert manager.receive()[0] == "WATCHDOG=1"
    now[0] = 321.0
    watch.beat()
    watch.beat()
    assert manager.silent_for(0.1)
    assert [vars(record)["event"] for record in caplog.records] == ["hanging"]
    pollers.end(poller)
    watch.beat()
    assert manager.receive() == ["WATCHDOG=1"]


def test_a_hanging_stream_thread_starves_the_watchdog(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert notifier is not None
    watch = Watch(Hooks(notifier), tuple)
    hanging: list[str] = []
    watch.threads(lambda: hanging)
    watch.beat()
    assert manager.receive()[0] == "WATCHDOG=1"
    hanging.append("stream writer")
    watch.beat()
    watch.beat()
    assert manager.silent_for(0.1)
    assert [vars(record)["threads"] for record in caplog.records] == ["stream writer"]


def test_the_status_says_that_a_reload_failed_until_one_succeeds() -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    health.receive(DaemonReloadFailed(AT, "config.toml: no accounts"))
    assert health.summary() == (
        "reload failed at 2026-11-23T14:03:00Z: config.toml: no accounts,"
        " 1 account, 1 stale, 0 order groups, no success yet"
    )
    health.receive(DaemonReloaded())
    assert health.summary() == "1 account, 1 stale, 0 order groups, no success yet"
