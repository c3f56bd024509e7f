"""Watch what the daemon does: as long as nothing hangs, there are heartbeats."""

import logging
from collections.abc import Callable, Sequence

from exporter.hooks import Heartbeat, Hooks

_log = logging.getLogger(__name__)

HANGS_AFTER = 300.0
"""Seconds beyond what is planned. Waiting for the database and writing what waited in the spool are
not, but end before."""


class Watch:
    """Emit heartbeats unless a poll hangs, or a thread that listens.

    Args:
        hooks: receive `Heartbeat`.
        polls: returns the accounts whose polls hang.
    """

    def __init__(self, hooks: Hooks, polls: Callable[[], Sequence[str]]) -> None:
        self._hooks = hooks
        self._polls = polls
        self._threads: Callable[[], Sequence[str]] = tuple
        self._hanging: tuple[str, str] | None = None  # which is logged once

    def threads(self, hanging: Callable[[], Sequence[str]]) -> None:
        """Watch threads too.

        Args:
            hanging: returns the names of those that hang.
        """
        self._threads = hanging

    def beat(self) -> None:
        """Emit a heartbeat, or log what hangs."""
        accounts, threads = self._polls(), self._threads()
        hanging = (", ".join(accounts), ", ".join(threads)) if accounts or threads else None
        if hanging is None:
            self._hooks.emit(Heartbeat())
        elif hanging != self._hanging:
            _log.error(
                "%s hang" if accounts else "%s hangs",
                "polls" if accounts else "listening",
                extra={
                    "event": "hanging",
                    "accounts": hanging[0] or None,
                    "threads": hanging[1] or None,
                },
            )
        self._hanging = hanging
