"""Run polls in the scheduler's threads: no failure of one ends the others."""

import logging
import os
import signal
from weakref import WeakSet

from exporter.clock import elapsed
from exporter.daemon.pollers import Pollers
from exporter.errors import ExporterError, SchemaError
from exporter.recording.poller import Poller

_log = logging.getLogger(__name__)


class PollRunner:
    """Run one poll after another of each account.

    Args:
        pollers: know which account may be polled now.

    Attributes:
        fatal: what the daemon has to end for, once SIGTERM was sent because of it.
    """

    def __init__(self, pollers: Pollers) -> None:
        self.fatal: ExporterError | None = None
        self._pollers = pollers
        self._polled: WeakSet[Poller] = WeakSet()  # those that have polled at least once

    def tick(self, account: str) -> None:
        """Poll because the grid says so, unless a poll of the account is under way."""
        poller = self._pollers.begin(account, is_tick=True).poller
        if poller is not None:
            self.run(poller)

    def run(self, poller: Poller, *, requested_at: float | None = None) -> bool:
        """Poll, and make up for a tick that came meanwhile.

        Args:
            poller: whose turn it is; this ends its turn.
            requested_at: when an event asked for this poll, as `elapsed` counts; None if the grid
                did.

        Returns:
            Whether it was a poll: another exporter may be polling the account, or a cooldown may
            forbid it.
        """
        try:
            polled = self._poll(poller, requested_at)
            if self._pollers.take_late_tick(poller):
                self._poll(poller, None)
        finally:
            self._pollers.end(poller)
        return polled

    def _poll(self, poller: Poller, requested_at: float | None) -> bool:
        try:
            code = poller.poll_if_due(
                first=poller not in self._polled,
                requested=None if requested_at is None else elapsed() - requested_at,
            )
        except SchemaError as error:
            self.fatal = error
            os.kill(os.getpid(), signal.SIGTERM)
            return True
        except Exception:  # noqa: BLE001  # a defect in one poll must not end all others
            _log.exception(
                "unexpected failure", extra={"event": "unexpected", "account": poller.account}
            )
            return True
        if code is None:
            return False
        self._polled.add(poller)
        return True
