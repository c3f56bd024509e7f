"""Track how fresh each account's data is, and whether the scheduler is alive."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exporter.clock import elapsed
from exporter.hooks import (
    AccountsChanged,
    DaemonReloaded,
    DaemonReloadFailed,
    Event,
    Heartbeat,
    PollFinished,
    StreamChanged,
    TickSkipped,
)
from exporter.model import COVERAGE_INTERVALS
from exporter.text import counted

HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats of the daemon's scheduler, at most."""

_STALLED_AFTER = (
    6 * HEARTBEAT_SECONDS
)  # seconds without a heartbeat after which the scheduler counts as stalled


@dataclass(slots=True)
class AccountHealth:
    """The health of one account, as far as this process knows.

    Attributes:
        interval: seconds between two polls.
        last_success_at: the latest observation in the database that this process knows of.
        groups: how many the latest observation of this process saw.
        reason: what was wrong with the latest poll of this process; None if nothing was.
        outcome: the same in fixed words, which hold nothing of the configuration.
    """

    interval: float
    last_success_at: datetime | None = None
    groups: int | None = None
    reason: str | None = None
    outcome: str | None = None
    _fresh_since: float | None = field(default=None, repr=False)

    def seconds_since_success(self) -> float | None:
        """Return the age of the last success by the steady clock; None if no success is known."""
        return None if self._fresh_since is None else elapsed() - self._fresh_since

    @property
    def stale(self) -> bool:
        """Return whether the last success is so old that the account has a gap by now."""
        age = self.seconds_since_success()
        return age is None or age > COVERAGE_INTERVALS * self.interval

    def succeeded(self, at: datetime | None, age: float) -> None:
        """Note a success; `age` is how many seconds ago it was."""
        self._fresh_since = max(self._fresh_since or float("-inf"), elapsed() - max(age, 0.0))
        if at is not None:
            self.last_success_at = max(self.last_success_at or at, at)


class Health:
    """Track the health of each account from events; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, AccountHealth] = {}
        self._heartbeat = elapsed()
        self._failed_reload: str | None = None
        self._connected: dict[str, bool] = {}  # of the accounts that the daemon listens for

    def receive(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case PollFinished():
                self._note_poll(event)
            case TickSkipped():
                # Another exporter polls the account, and knows whether its data is fresh.
                with self._lock:
                    if event.account in self._accounts:
                        self._accounts[event.account].succeeded(None, 0.0)
            case AccountsChanged():
                self._change_accounts(event.intervals, event.listening)
            case StreamChanged():
                with self._lock:
                    if event.account in self._connected:
                        self._connected[event.account] = event.connected
            case Heartbeat():
                self._heartbeat = elapsed()
            case DaemonReloadFailed():
                at = f"{event.at:%Y-%m-%dT%H:%M:%SZ}"
                self._failed_reload = f"reload failed at {at}: {event.reason}"
            case DaemonReloaded():
                self._failed_reload = None

    def _change_accounts(self, intervals: Mapping[str, float], listening: frozenset[str]) -> None:
        with self._lock:
            self._connected = {
                account: self._connected.get(account, False) for account in listening
            }
            before, self._accounts = self._accounts, {}
            for account, interval in intervals.items():
                health = before.get(account) or AccountHealth(interval)
                health.interval = interval
                self._accounts[account] = health

    def _note_poll(self, event: PollFinished) -> None:
        with self._lock:
            health = self._accounts.get(event.account)
            if health is None:
                return
            health.reason = event.reason
            health.outcome = None if event.reason is None else outcome_of(event)
            if event.last_success_at is not None:
                age = (datetime.now(UTC) - event.last_success_at).total_seconds()
                # The observation of this poll is fresh, whatever the wall clock did meanwhile.
                health.succeeded(event.last_success_at, age if event.groups is None else 0.0)
            if event.groups is not None:
                health.groups = event.groups

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the scheduler's last heartbeat."""
        return elapsed() - self._heartbeat

    @property
    def moving(self) -> bool:
        """Whether there was a heartbeat lately."""
        return self.stalled_seconds <= _STALLED_AFTER

    def stale(self) -> dict[str, str]:
        """Return the accounts whose data is not fresh, each with a line that says why."""
        with self._lock:
            return {
                account: _explained(health, health.reason)
                for account, health in self._accounts.items()
                if health.stale
            }

    def stale_outcomes(self) -> dict[str, str]:
        """Return the same in fixed words, for third parties."""
        with self._lock:
            return {
                account: _explained(health, health.outcome)
                for account, health in self._accounts.items()
                if health.stale
            }

    def summary(self) -> str:
        """Return one line: a failed reload, accounts, streams, groups, the last success."""
        with self._lock:
            accounts = list(self._accounts.values())
            groups = sum(health.groups or 0 for health in accounts)
            stale = sum(health.stale for health in accounts)
            listening = list(self._connected.values())
            last = max((h.last_success_at for h in accounts if h.last_success_at), default=None)
        return ", ".join(
            [
                *([self._failed_reload] if self._failed_reload else []),
                counted(len(accounts), "account"),
                *([f"{stale} stale"] if stale else []),
                *([f"listening to {sum(listening)} of {len(listening)}"] if listening else []),
                counted(groups, "order group"),
                "no success yet" if last is None else f"last success {last:%Y-%m-%dT%H:%M:%SZ}",
            ]
        )


def outcome_of(event: PollFinished) -> str:
    """Return how a poll ended in fixed words, which hold nothing of the configuration."""
    words = event.outcome.replace("_", " ")
    if event.kept == "spool":
        return f"{words}, waits in the spool"
    return words if event.kept == "database" else f"{words}, not kept"


def _explained(health: AccountHealth, reason: str | None) -> str:
    age = health.seconds_since_success()
    text = "no success yet" if age is None else f"no success for {age:.0f} s"
    return text if reason is None else f"{text}: {reason}"
