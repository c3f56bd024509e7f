"""Write the polls that wait in the spool, in their order, for no longer than a tick may take."""

import logging
from collections.abc import Callable

from exporter.clock import elapsed
from exporter.errors import PoisonPollError, SpoolError
from exporter.history.store import Store, WriteResult
from exporter.hooks import Hooks, PollDrained
from exporter.model import Poll
from exporter.spool.spool import Loss, Spool

_log = logging.getLogger(__name__)

# Each tick may add one poll to those that wait: writing one per tick would never empty the spool.
_LEAST = 2


class Backlog:
    """The polls of one account that wait in the spool.

    Args:
        account: its name.
        spool: where polls wait.
        store: notes the polls that are lost.
        write: writes a poll that waited.
        hooks: receive `PollDrained`.
    """

    def __init__(
        self,
        account: str,
        *,
        spool: Spool,
        store: Store,
        write: Callable[[Poll], WriteResult],
        hooks: Hooks,
    ) -> None:
        self._account = account
        self._spool = spool
        self._store = store
        self._write = write
        self._hooks = hooks
        self.drained = 0
        """How many polls the latest `drain` has written."""

    def drain(self, seconds: float) -> bool:
        """Write waiting polls, the oldest first; at least two, if there are as many.

        Args:
            seconds: after which no further poll is begun.

        Returns:
            Whether nothing waits any more. A poll that cannot be read does not count: it is
            reported and stays where it is, and the polls behind it are written all the same.

        Raises:
            DatabaseError: the database failed; what was not written goes on waiting.
        """
        self.drained = 0
        emptied = True
        try:
            if self._spool.has_nothing_of(self._account):
                return True
            emptied = self._drain(elapsed() + seconds)
        except SpoolError as error:
            self._warn("spool_failed", str(error))
        try:
            if emptied and (loss := self._spool.loss(self._account)) is not None:
                self._note(loss)
        except SpoolError as error:
            self._warn("spool_failed", str(error))
        if self.drained:
            _log.info(
                "polls from the spool are in the database",
                extra={"event": "drained", "account": self._account, "polls": self.drained},
            )
        return emptied

    def _drain(self, until: float) -> bool:
        loss = self._spool.loss(self._account)
        for done, (number, poll) in enumerate(self._spool.polls(self._account)):
            if done >= _LEAST and elapsed() > until:
                return False
            if loss is not None and poll.started_at > loss.last_started_at:
                # This poll found room in the spool again: the lost ones lie in the gap before.
                self._note(loss)
                loss = None
            try:
                written = self._write(poll)
            except PoisonPollError as error:
                self._give_up(poll, error)
            else:
                self._hooks.emit(
                    PollDrained(
                        account=self._account,
                        added=written.appeared or 0,
                        changed=written.changed or 0,
                        removed=written.removed or 0,
                    )
                )
                self.drained += 1
            self._spool.remove(self._account, number)
        return True

    def _note(self, loss: Loss) -> None:
        self._store.note_loss(self._account, polls=loss.polls, last_started_at=loss.last_started_at)
        # After a crash between the two, the loss is noted twice, which does no harm.
        self._spool.forget_loss(self._account)
        self._warn("polls_lost", f"{loss.polls} polls were kept nowhere and are lost")

    def _give_up(self, poll: Poll, error: PoisonPollError) -> None:
        """Give up a poll that the database will always refuse; all others wait behind it."""
        self._store.note_loss(self._account, polls=1, last_started_at=poll.started_at)
        _log.error(
            "%s; the poll of %s can never be written and is lost",
            error,
            poll.started_at.isoformat(timespec="seconds"),
            extra={"event": "poll_lost", "account": self._account},
        )

    def _warn(self, event: str, text: str) -> None:
        _log.warning("%s", text, extra={"event": event, "account": self._account})
