"""A doctor: each finding one line that says what was looked at, and what to do if it is not right.

It changes nothing: no file, no table, no row.
"""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from exporter import wiring
from exporter.clock import Clock, elapsed
from exporter.config.keys import ENVIRONMENTS
from exporter.config.model import Account, Configuration
from exporter.database.database import Database
from exporter.doctor.filesystem import git_tree_of, network_filesystem_of
from exporter.errors import (
    ApiError,
    ConfigurationError,
    DatabaseError,
    Exit,
    ExporterError,
    PrivateKeyError,
    SpoolError,
)
from exporter.history.migrate import current_revision, refuse_newer
from exporter.history.schema import REVISION
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.keys import SigningKey
from exporter.kalshi.order_groups import fetch_order_groups

_TOLERATED_SKEW = 5_000  # ms; the exchange has been seen to refuse from some 10 to 30 seconds on


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look gave.

    Attributes:
        subject: what was looked at.
        text: what was found; if it is wrong or doubtful, also what to do.
        exit_code: OK, or what a poll would end with.
        doubtful: it works, but will not or should not for long.
    """

    subject: str
    text: str
    exit_code: Exit = Exit.OK
    doubtful: bool = False


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
            keys[account.name] = key = wiring.key_of(account)
        except PrivateKeyError as error:
            yield from (_failed(subject, error, fault) for fault in error.faults)
        else:
            yield from _key(subject, key, account)
    yield from _database(configuration)
    yield from _spool(configuration)
    if not offline:
        for account in configuration.accounts:
            if account.name in keys:
                yield _request(account, keys[account.name])


def _key(subject: str, key: SigningKey, account: Account) -> Iterator[Finding]:
    path = account.private_key_file
    mode = stat.S_IMODE(path.stat().st_mode)
    yield Finding(subject=subject, text=f"{key.describe()}, {path}, mode {mode:04o}")
    for each in filter(None, (path, account.private_key_passphrase_file)):
        tree = git_tree_of(each)
        if tree is not None:
            yield Finding(
                subject=subject,
                text=f"{each} lies in the git working tree {tree}, one `git add` away from being"
                " published: move it out of there; if it was ever committed, make a new key",
                doubtful=True,
            )


def _database(configuration: Configuration) -> Iterator[Finding]:
    subject = "database"
    try:
        with closing(wiring.database_of(configuration)) as database:
            yield _schema(configuration, database)
            network = None if database.path is None else network_filesystem_of(database.path)
    except ExporterError as error:
        yield _failed(subject, error)
        return
    if network is not None:
        yield Finding(
            subject=subject,
            text=f"{database.path} lies on a network file system, {network}, where SQLite cannot"
            " rely on locks: put it on a disk of this machine, or use Postgres",
            doubtful=True,
        )


def _schema(configuration: Configuration, database: Database) -> Finding:
    """Look at the database's schema, and whether it can be written.

    Raises:
        ExporterError: it cannot be used.
    """
    subject = "database"
    where = configuration.database.safe_url
    if database.path is not None and not database.path.exists():
        return _new_file(database.path)
    revision = current_revision(database)
    refuse_newer(revision)
    if revision == REVISION:
        _try_to_write(database)
        return Finding(subject=subject, text=f"{where}; schema {revision}; writable")
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


def _spool(configuration: Configuration) -> Iterator[Finding]:
    subject = "spool"
    directory = configuration.spool.directory
    with closing(wiring.spool_of(configuration)) as spool:
        try:
            pending, elsewhere = spool.pending(), spool.pending_elsewhere()
        except SpoolError as error:
            yield _failed(subject, error)
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


def _request(account: Account, key: SigningKey) -> Finding:
    subject = f"account {account.name}"
    began = elapsed()
    budget = RequestBudget(account.poll.deadline)
    try:
        with wiring.session_of(account, key, threading.Event()) as session:
            observation = fetch_order_groups(
                session,
                budget,
                subaccount=account.subaccount,
                known_digest=None,
                now=Clock().now,
            )
    except (ApiError, ConfigurationError) as error:
        return _failed(subject, error, f"{error}{_elsewhere(account, error)}")
    took = elapsed() - began
    groups = len(observation.groups or ())
    found = f"{groups} groups from {account.base_url} in {took:.2f} s"
    skew = budget.clock_skew_ms
    if skew is not None and abs(skew) > _TOLERATED_SKEW:
        side = "behind" if skew < 0 else "ahead of"
        return Finding(
            subject=subject,
            text=f"{found}; but this machine's clock is {abs(skew) / 1000:.0f} s {side} the"
            " exchange's, which soon refuses it: synchronise the clock",
            exit_code=Exit.UNAUTHORIZED,
        )
    return Finding(subject=subject, text=found)


def _elsewhere(account: Account, error: ExporterError) -> str:
    """What to try if the exchange does not know the key at all: keys are of one environment."""
    details = getattr(error, "details", None) or ""
    if "NOT_FOUND" not in details or account.environment is None:
        return ""
    other = next(name for name in ENVIRONMENTS if name != account.environment)
    return f'; a key that was made on {other} works with environment = "{other}" only'


def _failed(subject: str, error: ExporterError, fault: str | None = None) -> Finding:
    # An observation would wait in the spool; but here the database was asked for.
    code = Exit.DATABASE if isinstance(error, DatabaseError) else error.exit_code
    return Finding(subject=subject, text=fault or str(error), exit_code=code)
