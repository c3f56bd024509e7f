"""What systemd is told, on the datagram sockets that it would listen on."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock

import pytest

from exporter.clock import elapsed
from exporter.daemon.scheduler import Scheduler
from exporter.daemon.watch import Watch
from exporter.demo.exchange import Exchange
from exporter.errors import Exit
from exporter.hooks import (
    AccountsChanged,
    DaemonReady,
    DaemonReloaded,
    DaemonReloadFailed,
    DaemonReloading,
    DaemonStopping,
    Heartbeat,
    Hooks,
    PollFinished,
)
from exporter.monitoring.health import Health
from exporter.monitoring.systemd import systemd
from tests.support.processes import ending

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from exporter.recording.poller import Poller
    from exporter.recording.recorder import Recorder
    from tests.conftest import WriteConfig

TIMEOUT = 60.0  # seconds until a test gives up on what takes one or two


class Manager:
    """The end of the socket that is systemd's."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(TIMEOUT)

    def receive(self) -> list[str]:
        """The next message's lines."""
        return self._socket.recv(4096).decode().split("\n")

    def receive_until(self, start: str) -> list[str]:
        """All lines up to the message that has one with this start."""
        lines: list[str] = []
        while not any(line.startswith(start) for line in lines):
            lines += self.receive()
        return lines

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing comes."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT)
        return False

    def forget(self) -> None:
        """Drop what has come."""
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


def test_the_protocol(manager: Manager) -> None:
    health = Health()
    health.receive(AccountsChanged({"main": 60.0}))
    told = systemd(health, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})
    assert told is not None
    assert told.heartbeat_seconds == 1.5
    told.receive(DaemonReady())
    assert manager.receive() == [
        "READY=1",
        "STATUS=1 account, 1 stale, 0 order groups, no success yet",
    ]
    told.receive(Heartbeat())
    assert manager.receive() == ["WATCHDOG=1"]
    now = datetime(2026, 11, 23, 14, 3, tzinfo=UTC)
    health.receive(
        PollFinished(
            account="main",
            started_at=now,
            finished_at=now,
            seconds=0.1,
            outcome="ok",
            attempts=1,
            clock_skew_ms=None,
            kept="database",
            exit_code=Exit.OK,
            last_success_at=now,
            groups=1,
        )
    )
    told.receive(Heartbeat())
    status = "STATUS=1 account, 1 order group, last success 2026-11-23T14:03:00Z"
    assert manager.receive() == ["WATCHDOG=1", status]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told.receive(DaemonReloading())
    reloading, monotonic = manager.receive()
    assert reloading == "RELOADING=1"
    assert before <= int(monotonic.removeprefix("MONOTONIC_USEC=")) < before + 10_000_000
    told.receive(DaemonReady())
    assert manager.receive() == ["READY=1"]
    told.receive(DaemonStopping())
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
def test_no_watchdog_is_fed_that_does_not_watch_this_process(environment: dict[str, str]) -> None:
    told = systemd(Health(), environment)
    assert told is not None
    assert told.heartbeat_seconds == 5.0
    assert not told._watched


@pytest.mark.parametrize("address", [None, "", "vsock:2:1"])
def test_without_systemd_nobody_is_told(address: str | None) -> None:
    assert systemd(Health(), {} if address is None else {"NOTIFY_SOCKET": address}) is None


def test_a_systemd_that_is_gone_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = systemd(Health(), {"NOTIFY_SOCKET": str(tmp_path / "nothing")})
    assert told is not None
    Hooks(told).emit(DaemonReady())
    (record,) = caplog.records
    assert vars(record)["event"] == "listener_failed"


def test_a_stuck_scheduler_starves_the_watchdog(manager: Manager) -> None:
    told = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert told is not None
    daemon = Scheduler(
        cast("Recorder", Mock(pollers=[], stream=Mock(sources=[]))),
        stop=threading.Event(),
        hooks=Hooks(told),
        heartbeat_seconds=told.heartbeat_seconds,
    )
    release = threading.Event()
    daemon.start()
    try:
        for _ in range(3):
            assert "WATCHDOG=1" in manager.receive()
        daemon._scheduler.add_job(release.wait, executor="heartbeat")  # in the scheduler's thread
        time.sleep(0.3)
        manager.forget()
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


def test_a_database_that_is_away_does_not_keep_it_from_being_ready(
    write_config: "WriteConfig", manager: Manager
) -> None:
    # Nothing listens there: polls wait in the spool.
    config = write_config(database_url="postgresql+psycopg://u@127.0.0.1:1/db")
    with daemon_of(config, manager) as process:
        assert manager.receive()[0] == "READY=1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_schema_that_is_not_this_versions_is_never_ready(
    write_config: "WriteConfig", manager: Manager
) -> None:
    config = write_config(database={"auto_migrate": False})
    with daemon_of(config, manager) as process:
        assert process.wait(TIMEOUT) == 78
    assert manager.silent_for(0.05)


def test_a_poll_that_hangs_starves_the_watchdog(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    told = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert told is not None
    recorder = cast("Recorder", Mock(pollers=[], stream=Mock(sources=[])))
    daemon = Scheduler(recorder, stop=threading.Event(), hooks=Hooks(told))
    poller = cast("Poller", Mock(account="main", timing=Mock(deadline=20.0)))
    daemon._running[poller] = elapsed() - 319.0
    daemon.watch.beat()
    assert manager.receive()[0] == "WATCHDOG=1"
    daemon._running[poller] = elapsed() - 321.0
    daemon.watch.beat()
    daemon.watch.beat()
    assert manager.silent_for(0.1)
    assert [vars(record)["event"] for record in caplog.records] == ["hanging"]
    daemon._running.clear()
    daemon.watch.beat()
    assert manager.receive() == ["WATCHDOG=1"]


def test_a_thread_that_hangs_while_it_listens_starves_the_watchdog(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    told = systemd(Health(), {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert told is not None
    watch = Watch(Hooks(told), tuple)
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
    at = datetime(2026, 11, 23, 14, 3, tzinfo=UTC)
    health.receive(DaemonReloadFailed(at, "config.toml: no accounts"))
    assert health.summary() == (
        "reload failed at 2026-11-23T14:03:00Z: config.toml: no accounts,"
        " 1 account, 1 stale, 0 order groups, no success yet"
    )
    health.receive(DaemonReloaded())
    assert health.summary() == "1 account, 1 stale, 0 order groups, no success yet"
