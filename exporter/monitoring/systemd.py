"""Report the daemon's state to systemd, by the protocol of sd_notify(3)."""

import os
import socket
import time
from collections.abc import Mapping

from exporter.hooks import DaemonReady, DaemonReloading, DaemonStopping, Event, Heartbeat
from exporter.monitoring.health import HEARTBEAT_SECONDS, Health


class Systemd:
    """Send READY, STATUS, WATCHDOG, RELOADING and STOPPING.

    Args:
        health: what STATUS says.
        address: of the socket, as `NOTIFY_SOCKET` has it; with @ in front if it is abstract.
        watchdog_seconds: after which systemd ends a process that sent no WATCHDOG; None if systemd
            does not watch.
    """

    def __init__(self, health: Health, address: str, watchdog_seconds: float | None) -> None:
        self._health = health
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watched = watchdog_seconds is not None
        self._status = ""
        self.heartbeat_seconds = min(HEARTBEAT_SECONDS, (watchdog_seconds or float("inf")) / 2)

    def receive(self, event: Event) -> None:
        """Send what an event means to systemd."""
        match event:
            case DaemonReady():
                self._send("READY=1", *self._news())
            case Heartbeat():
                # The scheduler's loop emits this, so a stuck loop no longer feeds the watchdog.
                messages = [*(["WATCHDOG=1"] if self._watched else []), *self._news()]
                if messages:
                    self._send(*messages)
            case DaemonReloading():
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                self._send("RELOADING=1", f"MONOTONIC_USEC={now}")
            case DaemonStopping():
                self._send("STOPPING=1", "STATUS=stopping")

    def _news(self) -> list[str]:
        """Return the status, if it differs from the one that systemd knows."""
        status = self._health.summary()
        if status == self._status:
            return []
        self._status = status
        return [f"STATUS={status}"]

    def _send(self, *messages: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # If systemd does not read, the scheduler must go on all the same.
            sender.setblocking(False)
            sender.sendto("\n".join(messages).encode(), self._address)


def systemd(health: Health, environment: Mapping[str, str] = os.environ) -> Systemd | None:
    """Return a listener that reports to systemd; None if systemd does not expect reports.

    Args:
        health: what STATUS says.
        environment: where systemd names its socket.
    """
    address = environment.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return None
    timeout = environment.get("WATCHDOG_USEC", "")
    # The variables may be meant for the parent process.
    mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog_seconds = int(timeout) / 1e6 if mine and timeout.isdecimal() and int(timeout) else None
    return Systemd(health, address, watchdog_seconds)
