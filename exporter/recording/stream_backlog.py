"""Write the batches of events that wait in the spool, in a daemon and in `run-once` alike."""

import logging
from dataclasses import dataclass
from functools import partial

from exporter.clock import elapsed
from exporter.errors import DatabaseError, ExporterError, PoisonPollError, SpoolError
from exporter.history.stream_store import StreamStore
from exporter.model import StreamBatch
from exporter.spool.stream import StreamSpool

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTarget:
    """Where what is heard is kept.

    Attributes:
        store: the database.
        spool: where batches wait while it is away.
        database: its name: spans that are claimed in one database are not claimed in another.
    """

    store: StreamStore
    spool: StreamSpool
    database: str

    def drain(self, account: str, until: float) -> bool:
        """Write what waits for an account, the oldest first; at least one batch, if one waits.

        Args:
            account: its name.
            until: by `elapsed()`; no further batch is begun then.

        Returns:
            Whether nothing waits any more.

        Raises:
            SpoolError: the disk failed; or a batch cannot be read and stays where it is, and those
                behind it are written, but claim nothing of its span.
            DatabaseError: the database failed; what was not written goes on waiting.
        """
        written = 0
        is_emptied = True
        try:
            for done, (number, batch) in enumerate(self.spool.batches(account)):
                if done and elapsed() > until:
                    is_emptied = False
                    break
                try:
                    self.store.write(batch, still_waits=partial(self.spool.waits, number))
                    written += len(batch.events)
                except PoisonPollError as error:
                    log_lost(batch, error)
                    self.store.write(loss_of(batch))
                self.spool.remove(account, number, batch)
        finally:
            if written:
                _log.info(
                    "events from the spool are in the database",
                    extra={"event": "events_drained", "account": account, "events": written},
                )
        return is_emptied

    def drain_all(self, seconds: float) -> None:
        """Write what waits for any account, unless the database is away.

        Args:
            seconds: after which no further account is begun.
        """
        until = elapsed() + seconds
        try:
            for account in sorted(self.spool.accounts()):
                if elapsed() > until:
                    break
                try:
                    self.drain(account, until)
                except SpoolError as error:
                    log_spool_failed(account, error)
        except SpoolError as error:
            _log.warning("%s", error, extra={"event": "spool_failed"})
        except DatabaseError as error:
            _log.error("%s; events wait in the spool", error, extra={"event": "events_spooled"})


def loss_of(batch: StreamBatch) -> StreamBatch:
    """Return what reports a batch that is kept nowhere: the cause of the gap that it leaves."""
    return StreamBatch(
        account=batch.account,
        own_groups_only=batch.own_groups_only,
        since=None,
        until=min([batch.until, *(event.received_at for event in batch.events)]),
        cause="not_kept",
        claimed_until=batch.claimed_until,
    )


def log_spool_failed(account: str, error: SpoolError) -> None:
    """Log that what waits for an account cannot be read."""
    _log.warning("%s", error, extra={"event": "spool_failed", "account": account})


def log_lost(batch: StreamBatch, error: ExporterError) -> None:
    """Log that a batch is kept nowhere."""
    _log.error(
        "%s; %d events are kept nowhere and are lost",
        error,
        len(batch.events),
        extra={"event": "events_lost", "account": batch.account, "events": len(batch.events)},
    )
