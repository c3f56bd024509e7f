"""Looks at the spool: can it be written, and what waits there?"""

import os
from collections.abc import Iterator
from contextlib import closing

from exporter import wiring
from exporter.config.model import Configuration
from exporter.doctor.finding import Finding, failed
from exporter.errors import Exit, SpoolError


def check_spool(configuration: Configuration) -> Iterator[Finding]:
    """Look at the configured spool."""
    subject = "spool"
    directory = configuration.spool.directory
    with closing(wiring.spool_of(configuration)) as spool:
        try:
            pending, elsewhere = spool.pending(), spool.pending_elsewhere()
        except SpoolError as error:
            yield failed(subject, error)
            return
    parent = next(path for path in (directory, *directory.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        yield Finding(
            subject=subject,
            text=f"{directory} cannot be written: {parent} is not a writable directory",
            exit_code=Exit.DATABASE,
        )
        return
    waiting = sum(pending.values())
    yield Finding(
        subject=subject,
        text=f"{directory}; " + (f"{waiting} polls wait for the database" if waiting else "empty"),
    )
    # Nobody else will ever write these.
    configured = {account.name for account in configuration.accounts}
    for account in sorted(pending.keys() - configured):
        yield Finding(
            subject=subject,
            text=f"{pending[account]} polls wait of the account {account}, which is not configured:"
            " configure it again for one run-once, which writes them",
            doubtful=True,
        )
    for url, count in sorted(elsewhere.items()):
        yield Finding(
            subject=subject,
            text=f"{count} polls wait for another database, {url}: one run-once with that as"
            " database.url writes them",
            doubtful=True,
        )
