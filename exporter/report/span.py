"""The span of time that a report is about, cut into equal parts; every other file here reads by it.

What happens inside one part is added up by the database: no more can be seen on a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Text,
    cast,
    extract,
    func,
    literal_column,
    select,
)
from sqlalchemy import type_coerce as coerce

from exporter.history.schema import accounts, coverage, polls

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_WIDTHS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * hours for hours in (1, 2, 3, 6, 12)),
    *(_DAY * days for days in (1, 2, 7, 14, 28)),
)
# Slots: their width in seconds, and the number of characters at the beginning of an instant's text
# that name one. Each width of a part is a multiple of one of these.
_SLOTS = ((_DAY, 10), (_HOUR, 13), (10 * _MINUTE, 15), (_MINUTE, 16), (10, 18), (1, 19))
_REST = "0000-00-00T00:00:00+00:00"
_PARTS = 720  # hours in 30 days; a screen shows no more
_FEWEST_PARTS = 24
_PARTS_OF_ALL_ACCOUNTS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of time, cut into parts of one width that begin at round instants in UTC.

    Attributes:
        since, until: the ends; nothing outside is read.
        width: seconds of one part.
        parts: how many there are.
        start: when the first begins, in seconds since 1970; not after `since`.
        sharing: how many accounts share the page, or more if it has to be a smaller one.
    """

    since: datetime
    until: datetime
    width: int
    parts: int
    start: int
    sharing: int

    def at_most(self, most: int, of_all: int) -> int:
        """Return how many of something to show of an account: `most`, or its share of the total."""
        return max(min(most, of_all // self.sharing), 1)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.until - self.since).total_seconds()

    def part(self, instant: datetime) -> int:
        """Return the number of the part in which an instant lies; the first or last if outside."""
        number = int((instant.timestamp() - self.start) // self.width)
        return min(max(number, 0), self.parts - 1)

    @property
    def slot_length(self) -> int:
        """The number of characters at the start of an instant's text that name its slot.

        Of many instants, those with one slot are counted together: several may lie in one part.
        """
        return next(length for width, length in _SLOTS if self.width % width == 0)

    def part_of_slot(self, slot: str) -> int:
        """Return the number of the part in which a slot lies."""
        return self.part(datetime.fromisoformat(slot + _REST[len(slot) :]))


def cut(since: datetime, until: datetime, *, sharing: int, interval: float) -> Span:
    """Cut a span into as many parts as a page has room for.

    Args:
        since: its beginning.
        until: its end, later.
        sharing: how many accounts share the page.
        interval: seconds between polls: a part is long enough to hold one.
    """
    wanted = max(_FEWEST_PARTS, min(_PARTS, _PARTS_OF_ALL_ACCOUNTS // sharing))
    seconds = (until - since).total_seconds()
    # Decades on end take multiples of the widest.
    width = next(
        (each for each in _WIDTHS if seconds <= each * wanted and each >= 2 * interval),
        _WIDTHS[-1] * (int(seconds // (_WIDTHS[-1] * wanted)) + 1),
    )
    start = int(since.timestamp() // width) * width
    parts = int((until.timestamp() - start) // width) + 1
    return Span(since=since, until=until, width=width, parts=parts, start=start, sharing=sharing)


def recorded(connection: Connection, names: Sequence[str]) -> tuple[datetime, datetime] | None:
    """Return the first and the last instant with a record; None if there are no records.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        names: the accounts to look at.
    """
    firsts: list[datetime] = []
    lasts: list[datetime] = []
    for name in names:
        for first, last, source in (
            (coverage.c.started_at, coverage.c.ended_at, coverage),
            (polls.c.started_at, polls.c.finished_at, polls),
        ):
            mine = source.c.account == name
            # Each from its index; asked for both at once, SQLite would read all rows.
            firsts += connection.scalars(select(first).where(mine).order_by(first).limit(1))
            lasts += connection.scalars(
                select(last).where(mine).order_by(source.c.started_at.desc()).limit(1)
            )
    return (min(firsts), max(lasts)) if firsts else None


def choose(
    connection: Connection,
    names: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> tuple[datetime, datetime]:
    """Choose the ends of a report: as asked for, else all that is recorded, up to now.

    If recording ended longer ago than it lasted, the end is its last record: a picture of mostly
    nothing shows nothing, and that recording has ended is said in words.

    Raises:
        ValueError: the span would be empty; its message is for who asked for it.
    """
    if since is not None and until is not None and since >= until:
        raise ValueError("--since must be before --until")
    found = recorded(connection, names)
    first, last = found or (now, now)
    asked = since is not None or until is not None
    if until is None:
        silent = now - last > max(last - first, timedelta(hours=1))
        until = last if silent and (since is None or since < last) else now
    until = min(until, now) if since is None or since < now else until
    if since is None:
        # A first poll of this very instant makes a span too: see below.
        since = first if found and (first < until or not asked) else until - timedelta(hours=1)
    if since >= until and asked:
        raise ValueError(f"--since must be before {until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return since, max(until, since + timedelta(seconds=1))


def recorded_accounts(connection: Connection) -> list[str]:
    """Return the names of all accounts with a record, in order."""
    return sorted(connection.scalars(select(accounts.c.account)))


def part_of(
    connection: Connection, instant: ColumnElement[datetime], span: Span
) -> ColumnElement[int]:
    """Return SQL for the number of the part in which an instant lies."""
    seconds = cast(_epoch(connection, instant), BigInteger)
    # Never negative, so that both databases round down.
    return (seconds - span.start) // span.width


def milliseconds(
    connection: Connection, start: ColumnElement[datetime], end: ColumnElement[datetime]
) -> ColumnElement[float]:
    """Return SQL for the milliseconds between two instants."""
    if connection.dialect.name == "postgresql":
        return cast((extract("epoch", end) - extract("epoch", start)) * 1000, Float)

    def micros(instant: ColumnElement[datetime]) -> ColumnElement[Any]:
        return cast(func.substr(coerce(instant, Text), 21, 6), BigInteger)

    # Integers up to the one division, so that it gives the double that Postgres gives.
    whole = (_epoch(connection, end) - _epoch(connection, start)) * 1_000_000
    return coerce((whole + micros(end) - micros(start)) / literal_column("1000.0"), Float)


def _epoch(connection: Connection, instant: ColumnElement[datetime]) -> ColumnElement[Any]:
    """Return SQL for the whole seconds from 1970 to an instant."""
    if connection.dialect.name == "postgresql":
        return func.floor(extract("epoch", instant))
    # Of the whole seconds of the text alone: with its fraction, strftime would round up.
    whole = func.substr(coerce(instant, Text), 1, 19)
    return cast(func.strftime("%s", whole), BigInteger)


def seconds_of(instant: datetime) -> float:
    """Return an instant as the page has it: seconds since 1970, to the millisecond."""
    return round(instant.timestamp(), 3)
