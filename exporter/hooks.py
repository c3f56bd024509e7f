"""Hooks: typed events about what the exporter does, and the listeners that receive them.

`recording` and `daemon` emit events; `monitoring`, `logs` and the demo receive them. The values are
structs, not dataclasses, because `run-once` starts every minute: a struct takes a tenth of the time
to define.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

import msgspec

from exporter.causes import StreamGapCause
from exporter.errors import Exit, Outcome
from exporter.model import OrderGroupEvent

_log = logging.getLogger(__name__)


class AccountsChanged(msgspec.Struct, frozen=True):
    """From now on the daemon polls these accounts and no others.

    Attributes:
        intervals: seconds between two polls, by account.
        listening: the accounts whose events it listens to.
    """

    intervals: Mapping[str, float]
    listening: frozenset[str] = frozenset()


class PollFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A poll of an account has ended, successfully or not.

    Attributes:
        seconds: how long it took, from the claim to the commit.
        http_status: of the last response; None if there was none.
        kept: where the poll's row is.
        exit_code: how it ended.
        reason: one line if something went wrong; otherwise None.
        last_success_at: the account's latest observation in the database, whoever made it; None if
            there is none, or if the database was away.
        groups, missing: order groups that stand, and those of them that this poll did not see; None
            unless an observation was written. `exporter.reading.figures` defines these figures.
        found: groups that the account's first observation saw, which do not count as changes.
        added, changed, removed: changes; None unless an observation was written.
    """

    account: str
    started_at: datetime
    finished_at: datetime
    seconds: float
    outcome: Outcome
    attempts: int
    clock_skew_ms: int | None
    kept: Literal["database", "spool", "nowhere"]
    exit_code: Exit
    http_status: int | None = None
    reason: str | None = None
    last_success_at: datetime | None = None
    groups: int | None = None
    missing: int | None = None
    found: int = 0
    added: int | None = None
    changed: int | None = None
    removed: int | None = None


class PollDrained(msgspec.Struct, frozen=True, kw_only=True):
    """A poll that waited in the spool was written, with this many changes."""

    account: str
    added: int
    changed: int
    removed: int


class TickSkipped(msgspec.Struct, frozen=True):
    """A tick made no poll, because another exporter is polling the account or just did."""

    account: str


class StreamChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A connection began to listen for an account, stopped, or could not be made.

    Attributes:
        at: when, UTC.
        connected: whether it listens now.
        was_connected: whether it listened before.
        cause: of the gap in the stream that begins; None if it listens.
        reason: one line if something is wrong; otherwise None.
    """

    account: str
    at: datetime
    connected: bool
    was_connected: bool = False
    cause: StreamGapCause | None = None
    reason: str | None = None


class EventsRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """Events of an account are durable: in the database, or in the spool while it is away.

    Attributes:
        events: in the order in which they were heard. Another daemon may have recorded them too.
        recorded_at: when they had become durable, UTC.
    """

    account: str
    events: Sequence[OrderGroupEvent]
    recorded_at: datetime


class DaemonReady(msgspec.Struct, frozen=True):
    """The daemon is polling: for the first time, or again after `DaemonReloading`."""


class DaemonReloading(msgspec.Struct, frozen=True):
    """The daemon is reading its configuration again."""


class DaemonReloaded(msgspec.Struct, frozen=True):
    """The configuration in the file is in force."""


class DaemonReloadFailed(msgspec.Struct, frozen=True):
    """The configuration in the file is not in force, and the former one stays.

    Attributes:
        at: when it was read, UTC.
        reason: one short line.
    """

    at: datetime
    reason: str


class DaemonStopping(msgspec.Struct, frozen=True):
    """The daemon starts no more polls."""


class Heartbeat(msgspec.Struct, frozen=True):
    """The scheduler's loop is moving and no poll hangs; emitted every few seconds."""


Event: TypeAlias = (
    AccountsChanged
    | PollFinished
    | PollDrained
    | TickSkipped
    | StreamChanged
    | EventsRecorded
    | DaemonReady
    | DaemonReloading
    | DaemonReloaded
    | DaemonReloadFailed
    | DaemonStopping
    | Heartbeat
)


class Listener(Protocol):
    """A receiver of every event, which handles those that concern it."""

    def receive(self, event: Event) -> None:
        """Handle an event.

        Many threads call this at the same time, but for the `PollFinished`, `PollDrained` and
        `TickSkipped` of one account only one at a time. It must be quick, because a poll waits.
        """


class Hooks:
    """Pass events on to listeners; an error of one listener is logged and harms nothing else.

    Args:
        listeners: in the order in which they receive each event.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def replace(self, *listeners: Listener) -> None:
        """Pass events to these listeners from now on, and to no others."""
        self._listeners = listeners

    def emit(self, event: Event) -> None:
        """Pass an event to each listener."""
        for listener in self._listeners:
            try:
                listener.receive(event)
            except Exception:  # noqa: BLE001  # a listener's defect must never harm a poll
                _log.exception(
                    "unexpected failure of a listener",
                    extra={"event": "listener_failed", "listener": type(listener).__name__},
                )
