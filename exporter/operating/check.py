"""A doctor: each finding one line that says what was looked at, and what to do if it is not right.

It changes nothing: no file, no table, no row.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from exporter import assembly
from exporter.clock import Clock, elapsed
from exporter.config import Account, Configuration
from exporter.errors import (
    ApiError,
    ConfigurationError,
    DatabaseError,
    Exit,
    ExporterError,
    PrivateKeyError,
    SpoolError,
)
from exporter.history.database import Database
from exporter.history.migrate import current_revision, refuse_newer
from exporter.history.schema import REVISION
from exporter.kalshi.effort import Effort
from exporter.kalshi.keys import SigningKey
from exporter.kalshi.order_groups import fetch_order_groups

_TOLERATED_SKEW = 5_000  # ms; the exchange has been seen to refuse from some 10 to 30 seconds on


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look gave.

    Attributes:
        subject: what was looked at.
        text: what was found; if it is wrong, also what to do.
        exit_code: OK, or what a poll would end with.
    """

    subject: str
    text: str
    exit_code: Exit = Exit.OK


def check(configuration: Configuration, *, offline: bool) -> Iterator[Finding]:
    """Look at everything a poll needs, in the order in which a poll needs it.

    Args:
        configuration: without faults.
        offline: leave out the request to the exchange that each account is checked by.
    """
    names = ", ".join(account.name for account in configuration.accounts)
    yield Finding(subject="configuration", text=f"{configuration.path}; accounts: {names}")
    keys: dict[str, SigningKey] = {}
    for account in configuration.accounts:
        subject = f"key of {account.name}"
        try:
            keys[account.name] = key = assembly.key_of(account)
        except PrivateKeyError as error:
            yield from (_failed(subject, error, fault) for fault in error.faults)
        else:
            yield Finding(subject=subject, text=f"{key.describe()}, {account.private_key_file}")
    yield _database(configuration)
    yield _spool(configuration)
    if not offline:
        for account in configuration.accounts:
            if account.name in keys:
                yield _request(account, keys[account.name])


def _database(configuration: Configuration) -> Finding:
    subject = "database"
    where = configuration.database.safe_url
    try:
        with closing(assembly.database_of(configuration)) as database:
            if database.path is not None and not database.path.exists():
                return _new_file(database.path)
            revision = current_revision(database)
            refuse_newer(revision)
            if revision == REVISION:
                _try_to_write(database)
                return Finding(subject=subject, text=f"{where}; schema {revision}; writable")
    except ExporterError as error:
        return _failed(subject, error)
    if configuration.database.auto_migrate:
        state = "no tables yet" if revision is None else f"schema {revision}"
        return Finding(
            subject=subject, text=f"{where}; {state}: the first poll migrates it to {REVISION}"
        )
    return Finding(
        subject=subject,
        text=f"{where}; the schema is not at revision {REVISION}: run `kalshi-exporter migrate`",
        exit_code=Exit.CONFIGURATION,
    )


def _new_file(path: Path) -> Finding:
    if os.access(path.parent, os.W_OK):
        return Finding(subject="database", text=f"{path} does not exist; the first poll makes it")
    return Finding(
        subject="database",
        text=f"{path} does not exist, and {path.parent} is not writable: change its owner or mode",
        exit_code=Exit.DATABASE,
    )


def _try_to_write(database: Database) -> None:
    """Take the path of a write without writing.

    Raises:
        DatabaseError: it is read-only, locked or away.
    """
    with database.transaction() as connection:
        connection.execute(text("UPDATE accounts SET version = version WHERE account IS NULL"))


def _spool(configuration: Configuration) -> Finding:
    directory = configuration.spool.directory
    with closing(assembly.spool_of(configuration)) as spool:
        try:
            pending = spool.pending()
        except SpoolError as error:
            return _failed("spool", error)
    parent = next(path for path in (directory, *directory.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return Finding(
            subject="spool",
            text=f"{directory} cannot be written: {parent} is not a writable directory",
            exit_code=Exit.DATABASE,
        )
    waiting = sum(pending.values())
    return Finding(
        subject="spool",
        text=f"{directory}; " + (f"{waiting} polls wait for the database" if waiting else "empty"),
    )


def _request(account: Account, key: SigningKey) -> Finding:
    subject = f"account {account.name}"
    began = elapsed()
    effort = Effort(account.poll.deadline)
    try:
        with assembly.session_of(account, key, threading.Event()) as session:
            observation = fetch_order_groups(
                session,
                effort,
                subaccount=account.subaccount,
                known_digest=None,
                now=Clock().now,
            )
    except (ApiError, ConfigurationError) as error:
        return _failed(subject, error)
    took = elapsed() - began
    groups = len(observation.groups or ())
    found = f"{groups} groups from {account.base_url} in {took:.2f} s"
    skew = effort.clock_skew_ms
    if skew is not None and abs(skew) > _TOLERATED_SKEW:
        side = "behind" if skew < 0 else "ahead of"
        return Finding(
            subject=subject,
            text=f"{found}; but this machine's clock is {abs(skew) / 1000:.0f} s {side} the"
            " exchange's, which soon refuses it: synchronise the clock",
            exit_code=Exit.UNAUTHORIZED,
        )
    return Finding(subject=subject, text=found)


def _failed(subject: str, error: ExporterError, fault: str | None = None) -> Finding:
    # An observation would wait in the spool; but here the database was asked for.
    code = Exit.DATABASE if isinstance(error, DatabaseError) else error.exit_code
    return Finding(subject=subject, text=fault or str(error), exit_code=code)
