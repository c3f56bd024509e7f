"""Check the spool: can it be written, and what waits there?"""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from exporter import wiring
from exporter.config.model import Configuration
from exporter.doctor.finding import Finding, failed
from exporter.doctor.rehearsal import try_directory
from exporter.errors import SpoolError
from exporter.permissions import explain_place
from exporter.spool.spool import Spool
from exporter.text import counted

_TRIAL_SIZE = 4096  # bytes


def check_spool(configuration: Configuration) -> Iterator[Finding]:
    """Check the configured spool."""
    subject = "spool"
    directory = configuration.spool.directory
    with closing(wiring.spool_of(configuration)) as spool:
        try:
            pending, elsewhere = spool.pending(), spool.pending_elsewhere()
            if spool.is_there():
                _try_to_write(spool)
            else:
                _try_directory(directory)
        except SpoolError as error:
            yield failed(subject, error)
            return
    waiting = sum(pending.values())
    yield Finding(
        subject=subject,
        text=f"{directory}; "
        + (f"{_polls_wait(waiting)} for the database" if waiting else "empty"),
    )
    # No exporter with this configuration would ever write these to the database.
    configured = {account.name for account in configuration.accounts}
    for account in sorted(pending.keys() - configured):
        yield Finding(
            subject=subject,
            text=f"{_polls_wait(pending[account])} for the account {account}, which is not"
            " configured: configure it again for one run-once, which writes what waits",
            doubtful=True,
        )
    for url, count in sorted(elsewhere.items()):
        yield Finding(
            subject=subject,
            text=f"{_polls_wait(count)} for another database, {url}: one run-once with that as"
            " database.url writes what waits",
            doubtful=True,
        )


def _polls_wait(count: int) -> str:
    return counted(count, "poll waits", "polls wait")


class _Undo(Exception):  # noqa: N818  # not an error
    """A request to roll a transaction back."""


def _try_to_write(spool: Spool) -> None:
    """Write a poll, and roll it back.

    Raises:
        SpoolError: the spool cannot be written.
    """
    with suppress(_Undo), spool.lend(to_write=True) as connection:
        connection.execute(
            "INSERT INTO polls (database, account, poll) VALUES ('', '', ?)", ("x" * _TRIAL_SIZE,)
        )
        raise _Undo


def _try_directory(directory: Path) -> None:
    """Write a temporary file where the spool would be created.

    Raises:
        SpoolError: nothing can be written there.
    """
    reason = explain_place(directory)
    if reason is not None:
        raise SpoolError(f"spool: {reason}")
    place = next(each for each in (directory, *directory.absolute().parents) if each.is_dir())
    try:
        try_directory(place)
    except OSError as error:
        raise SpoolError(f"spool: {place}: {error.strerror}: make room there") from error
