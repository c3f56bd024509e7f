"""Polls that wait for the database: durable, private, bounded, and written later in their order.

A SQLite file of its own in the spool's directory. An answer that comes again is kept once.
"""

import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec

from exporter.errors import SpoolError
from exporter.model import OrderGroup, Poll

_FILE = "spool.db"
_BUSY_SECONDS = 10.0
_PAGE = 4096  # bytes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    account TEXT NOT NULL, digest TEXT NOT NULL, groups BLOB NOT NULL,
    PRIMARY KEY (account, digest)
);
CREATE TABLE IF NOT EXISTS polls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL, digest TEXT, poll TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS polls_account ON polls (account, id);
-- What found no room. The row is there before it is needed: counting up must need no room.
CREATE TABLE IF NOT EXISTS losses (
    account TEXT PRIMARY KEY, polls INTEGER NOT NULL, last_started_at TEXT
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Polls that found no room in the spool.

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
    """

    def __init__(self, directory: Path, max_size: int) -> None:
        self._path = directory / _FILE
        self._max_size = max_size
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def put(self, poll: Poll) -> None:
        """Keep a poll, after all others of its account.

        Raises:
            SpoolError: there is no room, or the disk failed. What was kept before is still there.
        """
        observation = poll.observation
        digest = None if observation is None else observation.digest
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO losses VALUES (?, 0, NULL) ON CONFLICT DO NOTHING", (poll.account,)
            )
            connection.execute("SAVEPOINT kept")
            try:
                if observation is not None and observation.groups is not None:
                    connection.execute(
                        "INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                        (poll.account, digest, _packed(observation.groups)),
                    )
                    poll = replace(poll, observation=replace(observation, groups=None))
                connection.execute(
                    "INSERT INTO polls (account, digest, poll) VALUES (?, ?, ?)",
                    (poll.account, digest, msgspec.json.encode(poll).decode()),
                )
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not connection.in_transaction:
                    raise
                connection.execute("ROLLBACK TO kept")
                connection.execute(
                    "UPDATE losses SET polls = polls + 1, last_started_at = ? WHERE account = ?",
                    (poll.started_at.isoformat(), poll.account),
                )
                full = True
            else:
                full = False
        if full:
            raise SpoolError(
                f"{poll.account}: the spool {self._path} has reached spool.max_size: this poll is"
                " lost, those before it are kept"
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
                "SELECT a.digest FROM polls p LEFT JOIN answers a USING (account, digest)"
                " WHERE p.account = ? AND p.digest IS NOT NULL ORDER BY p.id DESC LIMIT 1",
                (account,),
            ).fetchone()
        return None if row is None else row[0]

    def pending(self) -> dict[str, int]:
        """How many polls wait, by account; accounts without any are left out.

        Raises:
            SpoolError: the disk failed.
        """
        if not self._exists():
            return {}
        with self._reading() as connection:
            return dict(connection.execute("SELECT account, COUNT(*) FROM polls GROUP BY account"))

    def polls(self, account: str) -> Iterator[tuple[int, Poll]]:
        """The account's polls in their order, each with the number to `remove` it by.

        Observations hold their groups, unless only their digest was known when they came.

        Raises:
            SpoolError: the disk failed.
        """
        last = 0
        answer: tuple[str, Mapping[str, OrderGroup]] | None = None
        while self._exists():
            with self._reading() as connection:
                row = connection.execute(
                    "SELECT id, digest, poll FROM polls WHERE account = ? AND id > ?"
                    " ORDER BY id LIMIT 1",
                    (account, last),
                ).fetchone()
                if row is None:
                    return
                last, digest, text = row
                if digest is not None and (answer is None or answer[0] != digest):
                    packed = connection.execute(
                        "SELECT groups FROM answers WHERE account = ? AND digest = ?",
                        (account, digest),
                    ).fetchone()
                    answer = None if packed is None else (digest, _unpacked(packed[0]))
            poll = msgspec.json.decode(text, type=Poll)
            if poll.observation is not None and answer is not None:
                poll = replace(poll, observation=replace(poll.observation, groups=answer[1]))
            yield last, poll

    def remove(self, account: str, number: int) -> None:
        """Forget a poll that has been written, and its answer if no other poll needs it.

        Raises:
            SpoolError: the disk failed.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM polls WHERE id = ?", (number,))
            connection.execute(
                "DELETE FROM answers WHERE account = ? AND digest NOT IN"
                " (SELECT digest FROM polls WHERE account = ? AND digest IS NOT NULL)",
                (account, account),
            )

    def take_loss(self, account: str) -> Loss | None:
        """What was lost of the account for want of room; it is forgotten here.

        Raises:
            SpoolError: the disk failed.
        """
        if not self._exists():
            return None
        with self._writing() as connection:
            row = connection.execute(
                "SELECT polls, last_started_at FROM losses WHERE account = ? AND polls > 0",
                (account,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE losses SET polls = 0, last_started_at = NULL WHERE account = ?", (account,)
            )
        return Loss(polls=row[0], last_started_at=datetime.fromisoformat(row[1]))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _exists(self) -> bool:
        return self._connection is not None or self._path.exists()

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
            raise SpoolError(f"spool: {self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA max_page_count={self._max_size // _PAGE}")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _packed(groups: Mapping[str, OrderGroup]) -> bytes:
    return zlib.compress(msgspec.json.encode(list(groups.values())), level=1)


def _unpacked(packed: bytes) -> Mapping[str, OrderGroup]:
    groups = msgspec.json.decode(zlib.decompress(packed), type=list[OrderGroup])
    return {group.id: group for group in groups}
