"""Poll at the least cost that a history in Python allows: the floor.

It sends a signed GET on a kept connection (`http.client`) and computes the body's digest. If the
digest equals the previous poll's, it writes only a row to `polls`. Otherwise `msgspec` decodes the
body, and a comparison with a dictionary in memory finds the groups that are new, changed or gone.
The drivers write only these and the row in `polls`, in one transaction: on SQLite with
`executemany`, in WAL mode with `synchronous=FULL` as the exporter does; on Postgres with one UPDATE
of an array of ids and a COPY.

Its tables have the documented columns and key, and the index by which the database enforces one
open snapshot per group. It leaves out deadlines, limits on size, retries, every check of the
response but msgspec's, removals confirmed by a second poll, claims and compare-and-swap against a
second exporter, coverage and gaps, the spool, logs, and the indexes by time.
"""

import hashlib
import http.client
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.place import Place
from benchmarks.signing import PATH, Signer


class Group(msgspec.Struct, gc=False):
    """An order group in the form of the response."""

    id: str
    is_auto_cancel_enabled: bool
    contracts_limit_fp: str | None = None
    exchange_index: int | None = None


class Page(msgspec.Struct):
    """The body of a response."""

    order_groups: list[Group]


_decode = msgspec.json.Decoder(Page).decode

_TABLES = """
CREATE TABLE IF NOT EXISTS polls (
    id {serial}, account text NOT NULL, started_at {instant} NOT NULL,
    finished_at {instant} NOT NULL, outcome text NOT NULL, http_status integer,
    digest text, group_count integer, added integer, changed integer, removed integer
);
CREATE TABLE IF NOT EXISTS order_group_snapshots (
    account text NOT NULL, order_group_id text NOT NULL, valid_from {instant} NOT NULL,
    is_auto_cancel_enabled {boolean} NOT NULL, contracts_limit {decimal}, exchange_index bigint,
    extra text, missing_since {instant}, last_seen_at {instant}, valid_to {instant},
    end_reason text, first_poll_id bigint NOT NULL, last_poll_id bigint,
    PRIMARY KEY (account, order_group_id, valid_from)
) {without_rowid};
CREATE UNIQUE INDEX IF NOT EXISTS order_group_snapshots_open
    ON order_group_snapshots (account, order_group_id) WHERE valid_to IS NULL;
"""


class Book(ABC):
    """The operations that the floor needs from a driver."""

    @abstractmethod
    def last_digest(self, account: str) -> str | None:
        """Return the digest of the account's last response."""

    @abstractmethod
    def open_groups(self, account: str) -> dict[str, Group]:
        """Return the account's open snapshots."""

    @abstractmethod
    def write(
        self,
        poll: Sequence[Any],
        opened: Sequence[Group],
        closed: Sequence[tuple[str, str]],
        previous: datetime | None,
    ) -> None:
        """Write a poll with its changes.

        Args:
            poll: the columns of its row.
            opened: the groups whose snapshots it opens.
            closed: the ids of the groups whose snapshots it closes, each with the reason.
            previous: when the account was last observed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class SqliteBook(Book):
    """The operations with the driver `sqlite3`."""

    def __init__(self, place: Place) -> None:
        self._connection = sqlite3.connect(place.sqlite_file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(
            _TABLES.format(
                serial="integer PRIMARY KEY",
                instant="text",
                boolean="boolean",
                decimal="text",
                without_rowid="WITHOUT ROWID",
            )
        )

    def last_digest(self, account: str) -> str | None:
        """Return the newest poll's digest."""
        row = self._connection.execute(
            "SELECT digest FROM polls WHERE account = ? ORDER BY id DESC LIMIT 1", (account,)
        ).fetchone()
        return None if row is None else row[0]

    def open_groups(self, account: str) -> dict[str, Group]:
        """Return the account's open snapshots."""
        rows = self._connection.execute(
            "SELECT order_group_id, is_auto_cancel_enabled, contracts_limit, exchange_index"
            " FROM order_group_snapshots WHERE account = ? AND valid_to IS NULL",
            (account,),
        )
        return {row[0]: Group(row[0], bool(row[1]), row[2], row[3]) for row in rows}

    def write(
        self,
        poll: Sequence[Any],
        opened: Sequence[Group],
        closed: Sequence[tuple[str, str]],
        previous: datetime | None,
    ) -> None:
        """Write a poll and its changes in one transaction."""
        account, started, finished, *others = poll
        now = _text(finished)
        execute, executemany = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        poll_id = execute(
            "INSERT INTO polls (account, started_at, finished_at, outcome, http_status, digest,"
            " group_count, added, changed, removed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (account, _text(started), now, *others),
        ).lastrowid
        assert poll_id is not None
        if closed:
            seen = _text(previous)
            executemany(
                "UPDATE order_group_snapshots SET valid_to = ?, last_seen_at = ?, end_reason = ?,"
                " last_poll_id = ? WHERE account = ? AND order_group_id = ? AND valid_to IS NULL",
                [(now, seen, reason, poll_id - 1, account, each) for each, reason in closed],
            )
        if opened:
            executemany(
                "INSERT INTO order_group_snapshots (account, order_group_id, valid_from,"
                " is_auto_cancel_enabled, contracts_limit, exchange_index, first_poll_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        account,
                        group.id,
                        now,
                        group.is_auto_cancel_enabled,
                        group.contracts_limit_fp,
                        group.exchange_index,
                        poll_id,
                    )
                    for group in opened
                ],
            )
        execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class PostgresBook(Book):
    """The operations with the driver `psycopg`."""

    def __init__(self, place: Place) -> None:
        import psycopg

        assert place.postgres is not None
        self._connection = psycopg.connect(place.postgres)
        self._connection.execute(
            _TABLES.format(
                serial="bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
                instant="timestamptz",
                boolean="boolean",
                decimal="numeric",
                without_rowid="",
            )
        )
        self._connection.commit()

    def last_digest(self, account: str) -> str | None:
        """Return the newest poll's digest."""
        row = self._connection.execute(
            "SELECT digest FROM polls WHERE account = %s ORDER BY id DESC LIMIT 1", (account,)
        ).fetchone()
        self._connection.commit()
        return None if row is None else row[0]

    def open_groups(self, account: str) -> dict[str, Group]:
        """Return the account's open snapshots."""
        rows = self._connection.execute(
            "SELECT order_group_id, is_auto_cancel_enabled, contracts_limit::text, exchange_index"
            " FROM order_group_snapshots WHERE account = %s AND valid_to IS NULL",
            (account,),
        )
        groups = {row[0]: Group(*row) for row in rows}
        self._connection.commit()
        return groups

    def write(
        self,
        poll: Sequence[Any],
        opened: Sequence[Group],
        closed: Sequence[tuple[str, str]],
        previous: datetime | None,
    ) -> None:
        """Write a poll and its changes in one transaction."""
        account, _, now, *_ = poll
        with self._connection.cursor() as cursor:
            row = cursor.execute(
                "INSERT INTO polls (account, started_at, finished_at, outcome, http_status, digest,"
                " group_count, added, changed, removed)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
                poll,
            ).fetchone()
            assert row is not None
            poll_id = row[0]
            for reason in ("changed", "removed"):
                if ids := [each for each, why in closed if why == reason]:
                    cursor.execute(
                        "UPDATE order_group_snapshots SET valid_to = %s, last_seen_at = %s,"
                        " end_reason = %s, last_poll_id = %s"
                        " WHERE account = %s AND valid_to IS NULL AND order_group_id = ANY(%s)",
                        (now, previous, reason, poll_id - 1, account, ids),
                    )
            if opened:
                with cursor.copy(
                    "COPY order_group_snapshots (account, order_group_id, valid_from,"
                    " is_auto_cancel_enabled, contracts_limit, exchange_index, first_poll_id)"
                    " FROM STDIN"
                ) as copy:
                    for group in opened:
                        copy.write_row(
                            (
                                account,
                                group.id,
                                now,
                                group.is_auto_cancel_enabled,
                                group.contracts_limit_fp,
                                group.exchange_index,
                                poll_id,
                            )
                        )
        self._connection.commit()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Account:
    """One account, with its groups in memory."""

    def __init__(self, place: Place, name: str, signer: Signer, book: Book) -> None:
        self._name = name
        self._key_id = place.accounts[name]
        self._signer = signer
        self._book = book
        self._connection = http.client.HTTPConnection(urlsplit(place.base_url).netloc, timeout=20)
        self._digest = book.last_digest(name)
        self._known: dict[str, Group] | None = None
        self._count = 0
        self._observed_at: datetime | None = None

    def poll(self) -> None:
        """Send one request, and write the changes."""
        started = datetime.now(UTC)
        self._connection.request("GET", PATH, headers=self._signer.headers(self._key_id))
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == http.client.OK
        now = datetime.now(UTC)
        digest = hashlib.blake2b(body, digest_size=32).hexdigest()
        opened: list[Group] = []
        closed: list[tuple[str, str]] = []
        if digest != self._digest:
            observed = {group.id: group for group in _decode(body).order_groups}
            known = self._known
            if known is None:
                known = self._book.open_groups(self._name)
            for each, group in observed.items():
                before = known.get(each)
                if before is None:
                    opened.append(group)
                elif before != group:
                    opened.append(group)
                    closed.append((each, "changed"))
            # Inserting into a B-tree is several times as fast in the order of its key.
            opened.sort(key=attrgetter("id"))
            changed = len(closed)
            closed += [(each, "removed") for each in known.keys() - observed.keys()]
            counts = (len(opened) - changed, changed, len(closed) - changed)
            self._count = len(observed)
        else:
            counts = (0, 0, 0)
        self._book.write(
            (self._name, started, now, "ok", 200, digest, self._count, *counts),
            opened,
            closed,
            self._observed_at,
        )
        if digest != self._digest:
            self._known, self._digest = observed, digest
        self._observed_at = now

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Floor:
    """A job that polls all accounts, one after the other, in one thread."""

    def __init__(self, place: Place) -> None:
        self._book = SqliteBook(place) if place.postgres is None else PostgresBook(place)
        signer = Signer(place.key_file)
        self._accounts = [Account(place, each, signer, self._book) for each in place.accounts]

    def poll(self) -> None:
        """Poll each account."""
        for account in self._accounts:
            account.poll()

    def close(self) -> None:
        """Close all connections."""
        for account in self._accounts:
            account.close()
        self._book.close()


@contextmanager
def subject(place: Place) -> Iterator[Floor]:
    """Yield the floor, ready to poll."""
    floor = Floor(place)
    try:
        yield floor
    finally:
        with suppress(Exception):
            floor.close()
