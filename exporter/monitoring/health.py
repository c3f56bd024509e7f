"""How fresh each account's data is, and whether the scheduler moves."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exporter.clock import elapsed
from exporter.hooks import Listener, PollFinished

FRESH_INTERVALS = 2.5
"""An account is fresh if its last success is no more than so many of its intervals ago."""

HEARTBEAT_SECONDS = 5.0
"""How often the daemon's scheduler tells that it moves, at least."""

_STILL = 6 * HEARTBEAT_SECONDS  # until a scheduler that tells nothing counts as stuck


@dataclass(slots=True)
class AccountHealth:
    """What is known of one account.

    Attributes:
        interval: seconds.
        last_success_at: the latest observation in the database that is known of.
        groups: that the latest observation made here saw.
        reason: why the latest poll made here was not all well; None if it was.
        outcome: the same in fixed words, which hold nothing of the configuration.
    """

    interval: float
    last_success_at: datetime | None = None
    groups: int | None = None
    reason: str | None = None
    outcome: str | None = None
    _fresh_since: float | None = field(default=None, repr=False)

    def seconds_since_success(self) -> float | None:
        """By the clock that no step changes; None if no success is known."""
        return None if self._fresh_since is None else elapsed() - self._fresh_since

    @property
    def stale(self) -> bool:
        """Whether the last success is too long ago."""
        age = self.seconds_since_success()
        return age is None or age > FRESH_INTERVALS * self.interval

    def succeeded(self, at: datetime | None, age: float) -> None:
        """Note a success of so many seconds ago."""
        self._fresh_since = max(self._fresh_since or float("-inf"), elapsed() - max(age, 0.0))
        if at is not None:
            self.last_success_at = max(self.last_success_at or at, at)


class Health(Listener):
    """Listens, and answers; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, AccountHealth] = {}
        self._heartbeat = elapsed()
        self._failed_reload: str | None = None

    def accounts_changed(self, intervals: Mapping[str, float]) -> None:
        """Forget the accounts that are not polled any more."""
        with self._lock:
            before, self._accounts = self._accounts, {}
            for account, interval in intervals.items():
                health = before.get(account) or AccountHealth(interval)
                health.interval = interval
                self._accounts[account] = health

    def polled(self, event: PollFinished) -> None:
        """Note how it ended."""
        with self._lock:
            health = self._accounts.get(event.account)
            if health is None:
                return
            health.reason = event.reason
            health.outcome = None if event.reason is None else outcome_of(event)
            if event.last_success_at is not None:
                age = (datetime.now(UTC) - event.last_success_at).total_seconds()
                # What this very poll saw is fresh, whatever the wall clock did meanwhile.
                health.succeeded(event.last_success_at, age if event.groups is None else 0.0)
            if event.groups is not None:
                health.groups = event.groups

    def tick_skipped(self, account: str) -> None:
        """Take the account as fresh: whether it is, the exporter that polls it tells."""
        with self._lock:
            if account in self._accounts:
                self._accounts[account].succeeded(None, 0.0)

    def reload_failed(self, at: datetime, reason: str) -> None:
        """Note that the configuration in force is older than the one in the file."""
        self._failed_reload = f"reload failed at {at:%Y-%m-%dT%H:%M:%SZ}: {reason}"

    def reloaded(self) -> None:
        """Note that the configuration in the file is in force."""
        self._failed_reload = None

    def heartbeat(self) -> None:
        """Note that the scheduler moves."""
        self._heartbeat = elapsed()

    @property
    def seconds_still(self) -> float:
        """Since the scheduler last told that it moves."""
        return elapsed() - self._heartbeat

    @property
    def moving(self) -> bool:
        """Whether the scheduler has told lately that it moves."""
        return self.seconds_still <= _STILL

    def stale(self) -> dict[str, str]:
        """The accounts that are not fresh, each with a line that says since when, and why."""
        with self._lock:
            return {
                account: _explained(health, health.reason)
                for account, health in self._accounts.items()
                if health.stale
            }

    def stale_outcomes(self) -> dict[str, str]:
        """The same in fixed words, for third parties."""
        with self._lock:
            return {
                account: _explained(health, health.outcome)
                for account, health in self._accounts.items()
                if health.stale
            }

    def summary(self) -> str:
        """One line: a failed reload; accounts and groups, how many stale, and the last success."""
        with self._lock:
            accounts = list(self._accounts.values())
            groups = sum(health.groups or 0 for health in accounts)
            stale = sum(health.stale for health in accounts)
            last = max((h.last_success_at for h in accounts if h.last_success_at), default=None)
        return ", ".join(
            [
                *([self._failed_reload] if self._failed_reload else []),
                _counted(len(accounts), "account"),
                *([f"{stale} stale"] if stale else []),
                _counted(groups, "order group"),
                "no success yet" if last is None else f"last success {last:%Y-%m-%dT%H:%M:%SZ}",
            ]
        )


def outcome_of(event: PollFinished) -> str:
    """Say how a poll ended in fixed words, which hold nothing of the configuration."""
    words = event.outcome.replace("_", " ")
    if event.kept == "spool":
        return f"{words}, waits in the spool"
    return words if event.kept == "database" else f"{words}, not kept"


def _explained(health: AccountHealth, reason: str | None) -> str:
    age = health.seconds_since_success()
    text = "no success yet" if age is None else f"no success for {age:.0f} s"
    return text if reason is None else f"{text}: {reason}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
