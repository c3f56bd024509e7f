"""Polls that wait for the database: durable, private, bounded, and written later in their order.

They are kept in a SQLite file of their own. A response that repeats is kept once.
"""

import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from exporter.errors import SpoolError
from exporter.model import OrderGroup, Poll
from exporter.spool.file import SpoolFile


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Polls that the spool could not keep.

    Attributes:
        polls: how many.
        last_started_at: of the latest, UTC.
    """

    polls: int
    last_started_at: datetime


class Spool:
    """The waiting polls of any number of accounts; for several threads and processes at a time.

    Args:
        directory: created when first needed, readable by its owner alone.
        max_size: bytes of the file.
        database: the name, without a secret, of the database that the polls wait for:
            configurations that share a directory must not write into each other's histories.
            None to count the polls for all databases.
    """

    def __init__(self, directory: Path, max_size: int, *, database: str | None = None) -> None:
        self._file = SpoolFile(directory, max_size)
        self._database = database
        self._losses: dict[str, Loss] = {}  # those that the file could not record

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
                f"spool: {self._file.path} has reached spool.max_size and keeps what it holds"
            )

    def _put(self, poll: Poll) -> bool:
        """Keep a poll; if there is no room, only count it, and return False."""
        with self._file.writing() as connection:
            connection.execute(
                "INSERT INTO losses VALUES (?, ?, 0, NULL) ON CONFLICT DO NOTHING",
                (self._database, poll.account),
            )
        try:
            with self._file.writing() as connection:
                self._insert(connection, poll)
        except SpoolError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                raise
        else:
            return True
        with self._file.writing() as connection:
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
        """Return the digest of the account's latest poll here, if its response is here too.

        Raises:
            SpoolError: the disk failed.
        """
        if not self._file.exists():
            return None
        with self._file.reading() as connection:
            row = connection.execute(
                "SELECT a.digest FROM polls p LEFT JOIN answers a USING (database, account, digest)"
                " WHERE p.database = ? AND p.account = ? AND p.digest IS NOT NULL"
                " ORDER BY p.id DESC LIMIT 1",
                (self._database, account),
            ).fetchone()
        return None if row is None else row[0]

    def pending(self) -> dict[str, int]:
        """Return how many polls wait, by account; accounts without any are left out.

        Raises:
            SpoolError: the disk failed.
        """
        return self._counts(
            "SELECT account, COUNT(*) FROM polls"
            " WHERE database = :database OR :database IS NULL GROUP BY account"
        )

    def pending_elsewhere(self) -> dict[str, int]:
        """Return how many polls wait for other databases, by their URL without secrets.

        Raises:
            SpoolError: the disk failed.
        """
        return self._counts(
            "SELECT database, COUNT(*) FROM polls WHERE database != :database GROUP BY database"
        )

    def _counts(self, statement: str) -> dict[str, int]:
        if not self._file.exists():
            return {}
        with self._file.reading() as connection:
            return dict(connection.execute(statement, {"database": self._database}))

    def polls(self, account: str) -> Iterator[tuple[int, Poll]]:
        """Yield the account's polls in their order, each with the number to `remove` it by.

        Observations hold their groups, unless they were put here with their digest alone.

        Raises:
            SpoolError: the disk failed; or, after all others were given, one cannot be read.
        """
        last = 0
        unreadable: SpoolError | None = None
        response: tuple[str, Mapping[str, OrderGroup]] | None = None
        while self._file.exists():
            with self._file.reading() as connection:
                row = connection.execute(
                    "SELECT id, digest, poll FROM polls"
                    " WHERE database = ? AND account = ? AND id > ? ORDER BY id LIMIT 1",
                    (self._database, account, last),
                ).fetchone()
                if row is None:
                    break
                last, digest, text = row
                packed = None
                if digest is not None and (response is None or response[0] != digest):
                    response = None
                    packed = connection.execute(
                        "SELECT groups FROM answers"
                        " WHERE database = ? AND account = ? AND digest = ?",
                        (self._database, account, digest),
                    ).fetchone()
            try:
                if packed is not None:
                    response = (digest, self._unpacked(packed[0]))
                poll = self._decoded(text)
            except SpoolError as error:
                unreadable = error
                continue
            if poll.observation is not None and response is not None:
                poll = replace(poll, observation=replace(poll.observation, groups=response[1]))
            yield last, poll
        if unreadable is not None:
            raise unreadable

    def remove(self, account: str, number: int) -> None:
        """Delete a poll that has been written, and its response if no other poll needs it.

        Raises:
            SpoolError: the disk failed.
        """
        with self._file.writing() as connection:
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

    def has_nothing_of(self, account: str) -> bool:
        """Return whether nothing of the account is here: no file, and no loss in memory.

        Raises:
            SpoolError: it is unknown, because the directory cannot be searched.
        """
        return account not in self._losses and not self._file.exists()

    def loss(self, account: str) -> Loss | None:
        """Return the account's polls that were lost because there was no room or the disk failed.

        Raises:
            SpoolError: the disk failed.
        """
        losses = [self._losses[account]] if account in self._losses else []
        if self._file.exists():
            with self._file.reading() as connection:
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
        """Forget the account's lost polls, once they have been noted elsewhere.

        Raises:
            SpoolError: the disk failed.
        """
        self._losses.pop(account, None)
        if self._file.exists():
            with self._file.writing() as connection:
                connection.execute(
                    "UPDATE losses SET polls = 0, last_started_at = NULL"
                    " WHERE database = ? AND account = ?",
                    (self._database, account),
                )

    @property
    def database(self) -> str | None:
        """The database that the polls wait for; None stands for all databases."""
        return self._database

    def is_there(self) -> bool:
        """Return whether there is a file yet."""
        return self._file.exists()

    def lend(self, *, to_write: bool) -> AbstractContextManager[sqlite3.Connection]:
        """Lend the file to other things that wait in it, for one transaction if it is to write.

        Raises:
            SpoolError: the disk failed.
        """
        return self._file.writing() if to_write else self._file.reading()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

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
            f"spool: {self._file.path} holds what this version cannot read, and keeps it: {error}"
        )


def _packed(groups: Mapping[str, OrderGroup]) -> bytes:
    return zlib.compress(msgspec.json.encode(list(groups.values())), level=1)
