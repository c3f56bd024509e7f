"""Polls that wait for the database: durable, private, bounded, and written later in their order.

A SQLite file of its own in the spool's directory. An answer that comes again is kept once.
"""

import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

from exporter.errors import SpoolError
from exporter.model import OrderGroup, Poll
from exporter.permissions import is_missing
from exporter.spool.explain import explain

_FILE = "spool.db"
_BUSY_SECONDS = 10.0
_PAGE = 4096  # bytes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    database TEXT NOT NULL, account TEXT NOT NULL, digest TEXT NOT NULL, groups BLOB NOT NULL,
    PRIMARY KEY (database, account, digest)
);
CREATE TABLE IF NOT EXISTS polls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database TEXT NOT NULL, account TEXT NOT NULL, digest TEXT, poll TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS polls_account ON polls (database, account, id);
-- Whether another poll needs an answer.
CREATE INDEX IF NOT EXISTS polls_digest ON polls (database, account, digest);
-- What found no room. The row is there before it is needed: counting up must need no room.
CREATE TABLE IF NOT EXISTS losses (
    database TEXT NOT NULL, account TEXT NOT NULL, polls INTEGER NOT NULL, last_started_at TEXT,
    PRIMARY KEY (database, account)
);
-- What connections heard: see `stream`.
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database TEXT NOT NULL, account TEXT NOT NULL, own_groups_only INTEGER NOT NULL,
    since TEXT, until TEXT NOT NULL, cause TEXT, events INTEGER NOT NULL, packed BLOB
);
CREATE INDEX IF NOT EXISTS batches_account ON batches (database, account, id);
CREATE TABLE IF NOT EXISTS lost_batches (
    database TEXT NOT NULL, account TEXT NOT NULL, own_groups_only INTEGER NOT NULL,
    first TEXT, last TEXT,
    PRIMARY KEY (database, account)
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Polls that the spool could not keep.

    Attributes:
        polls: how many.
        last_started_at: of the latest, UTC.
    """

    polls: int
    last_started_at: datetime


class Spool:
    """Polls of any number of accounts; for several threads and processes at a time.

    Args:
        directory: made when first needed, readable by its owner alone.
        max_size: bytes of the file.
        database: names the one that the polls wait for, without a secret: configurations that
            share a directory must not write into each other's histories. None to look at all.
    """

    def __init__(self, directory: Path, max_size: int, *, database: str | None = None) -> None:
        self._path = directory / _FILE
        self._database = database
        self._max_size = max_size
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._losses: dict[str, Loss] = {}  # which the file cannot tell of

    def put(self, poll: Poll) -> None:
        """Keep a poll, after all others of its account.

        Raises:
            SpoolError: there is no room, or the disk failed. What was kept before is still there.
        """
        try:
            full = not self._put(poll)
        except SpoolError:
            before = self._losses.get(poll.account)
            self._losses[poll.account] = Loss(
                polls=1 if before is None else before.polls + 1, last_started_at=poll.started_at
            )
            raise
        if full:
            raise SpoolError(
                f"spool: {self._path} has reached spool.max_size and keeps what it holds"
            )

    def _put(self, poll: Poll) -> bool:
        """Keep a poll; if there is no room, only count it, and return False."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO losses VALUES (?, ?, 0, NULL) ON CONFLICT DO NOTHING",
                (self._database, poll.account),
            )
        try:
            with self._writing() as connection:
                self._insert(connection, poll)
        except SpoolError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                raise
        else:
            return True
        with self._writing() as connection:
            connection.execute(
                "UPDATE losses SET polls = polls + 1, last_started_at = ?"
                " WHERE database = ? AND account = ?",
                (poll.started_at.isoformat(), self._database, poll.account),
            )
        return False

    def _insert(self, connection: sqlite3.Connection, poll: Poll) -> None:
        observation = poll.observation
        digest = None if observation is None else observation.digest
        if observation is not None and observation.groups is not None:
            connection.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (self._database, poll.account, digest, _packed(observation.groups)),
            )
            poll = replace(poll, observation=replace(observation, groups=None))
        connection.execute(
            "INSERT INTO polls (database, account, digest, poll) VALUES (?, ?, ?, ?)",
            (self._database, poll.account, digest, msgspec.json.encode(poll).decode()),
        )

    def known_digest(self, account: str) -> str | None:
        """The digest of the account's latest poll here, if its answer is here too.

        Raises:
            SpoolError: the disk failed.
        """
        if not self._exists():
            return None
        with self._reading() as connection:
            row = connection.execute(
                "SELECT a.digest FROM polls p LEFT JOIN answers a USING (database, account, digest)"
                " WHERE p.database = ? AND p.account = ? AND p.digest IS NOT NULL"
                " ORDER BY p.id DESC LIMIT 1",
                (self._database, account),
            ).fetchone()
        return None if row is None else row[0]

    def pending(self) -> dict[str, int]:
        """How many polls wait, by account; accounts without any are left out.

        Raises:
            SpoolError: the disk failed.
        """
        return self._counts(
            "SELECT account, COUNT(*) FROM polls"
            " WHERE database = :database OR :database IS NULL GROUP BY account"
        )

    def pending_elsewhere(self) -> dict[str, int]:
        """How many polls wait for other databases than this, by their safe URL.

        Raises:
            SpoolError: the disk failed.
        """
        return self._counts(
            "SELECT database, COUNT(*) FROM polls WHERE database != :database GROUP BY database"
        )

    def _counts(self, statement: str) -> dict[str, int]:
        if not self._exists():
            return {}
        with self._reading() as connection:
            return dict(connection.execute(statement, {"database": self._database}))

    def polls(self, account: str) -> Iterator[tuple[int, Poll]]:
        """The account's polls in their order, each with the number to `remove` it by.

        Observations hold their groups, unless only their digest was known when they came.

        Raises:
            SpoolError: the disk failed; or, after all others were given, one cannot be read.
        """
        last = 0
        unreadable: SpoolError | None = None
        answer: tuple[str, Mapping[str, OrderGroup]] | None = None
        while self._exists():
            with self._reading() as connection:
                row = connection.execute(
                    "SELECT id, digest, poll FROM polls"
                    " WHERE database = ? AND account = ? AND id > ? ORDER BY id LIMIT 1",
                    (self._database, account, last),
                ).fetchone()
                if row is None:
                    break
                last, digest, text = row
                packed = None
                if digest is not None and (answer is None or answer[0] != digest):
                    answer = None
                    packed = connection.execute(
                        "SELECT groups FROM answers"
                        " WHERE database = ? AND account = ? AND digest = ?",
                        (self._database, account, digest),
                    ).fetchone()
            try:
                if packed is not None:
                    answer = (digest, self._unpacked(packed[0]))
                poll = self._decoded(text)
            except SpoolError as error:
                unreadable = error
                continue
            if poll.observation is not None and answer is not None:
                poll = replace(poll, observation=replace(poll.observation, groups=answer[1]))
            yield last, poll
        if unreadable is not None:
            raise unreadable

    def remove(self, account: str, number: int) -> None:
        """Forget a poll that has been written, and its answer if no other poll needs it.

        Raises:
            SpoolError: the disk failed.
        """
        with self._writing() as connection:
            removed = connection.execute(
                "DELETE FROM polls WHERE id = ? RETURNING digest", (number,)
            ).fetchone()
            if removed is not None and removed[0] is not None:
                connection.execute(
                    "DELETE FROM answers"
                    " WHERE database = :database AND account = :account AND digest = :digest"
                    " AND NOT EXISTS (SELECT 1 FROM polls"
                    " WHERE database = :database AND account = :account AND digest = :digest)",
                    {"database": self._database, "account": account, "digest": removed[0]},
                )

    def loss(self, account: str) -> Loss | None:
        """What was lost of the account, for want of room or because the disk failed.

        Raises:
            SpoolError: the disk failed.
        """
        losses = [self._losses[account]] if account in self._losses else []
        if self._exists():
            with self._reading() as connection:
                row = connection.execute(
                    "SELECT polls, last_started_at FROM losses"
                    " WHERE database = ? AND account = ? AND polls > 0",
                    (self._database, account),
                ).fetchone()
            if row is not None:
                losses.append(Loss(polls=row[0], last_started_at=datetime.fromisoformat(row[1])))
        if not losses:
            return None
        return Loss(
            polls=sum(loss.polls for loss in losses),
            last_started_at=max(loss.last_started_at for loss in losses),
        )

    def forget_loss(self, account: str) -> None:
        """Forget what was lost of the account, once it has been noted elsewhere.

        Raises:
            SpoolError: the disk failed.
        """
        self._losses.pop(account, None)
        if self._exists():
            with self._writing() as connection:
                connection.execute(
                    "UPDATE losses SET polls = 0, last_started_at = NULL"
                    " WHERE database = ? AND account = ?",
                    (self._database, account),
                )

    @property
    def database(self) -> str | None:
        """The database that what is here waits for; None to look at all."""
        return self._database

    def is_there(self) -> bool:
        """Whether there is a file yet."""
        return self._exists()

    def lend(self, *, to_write: bool) -> AbstractContextManager[sqlite3.Connection]:
        """Lend the file to what else waits in it, in one transaction if it is to write.

        Raises:
            SpoolError: the disk failed.
        """
        return self._writing() if to_write else self._reading()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _exists(self) -> bool:
        if self._connection is not None:
            return True
        try:
            return not is_missing(self._path)
        except OSError as error:
            raise self._failed(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error | OSError) -> SpoolError:
        return SpoolError(f"spool: {explain(self._path, error) or f'{self._path}: {error}'}")

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # Larger statements need a temporary file otherwise: there may be no place for one.
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA max_page_count={self._max_size // _PAGE}")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _decoded(self, text: str) -> Poll:
        try:
            return msgspec.json.decode(text, type=Poll)
        except msgspec.MsgspecError as error:
            raise self._unreadable(error) from error

    def _unpacked(self, packed: bytes) -> Mapping[str, OrderGroup]:
        try:
            groups = msgspec.json.decode(zlib.decompress(packed), type=list[OrderGroup])
        except (msgspec.MsgspecError, zlib.error) as error:
            raise self._unreadable(error) from error
        return {group.id: group for group in groups}

    def _unreadable(self, error: Exception) -> SpoolError:
        return SpoolError(
            f"spool: {self._path} holds what this version cannot read, and keeps it: {error}"
        )


def _packed(groups: Mapping[str, OrderGroup]) -> bytes:
    return zlib.compress(msgspec.json.encode(list(groups.values())), level=1)
