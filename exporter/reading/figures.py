"""The one definition of each figure.

`status`, the report, the exports, the log and the metrics show the same numbers because they use
the same definitions:

- A group *stands* if it has an open snapshot: the rows of the view `order_groups_current`, and of
  `export groups`. A group that the latest polls missed still stands until enough of them confirm
  it, as the history says for the present instant. `polls.group_count` is
  another figure: the groups that one poll saw.
- A *change* is a row of the view `order_group_changes` with `not_before`. A group that was there at
  the account's first observation did not change then: it was found.
- An account is observed *now* if its next poll can still follow without a gap: if its last
  observation is no older than `COVERAGE_INTERVALS` intervals.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, select

from exporter.history.schema import coverage, order_group_snapshots
from exporter.model import COVERAGE_INTERVALS
from exporter.reading import views

_DEFAULT_INTERVAL = 60.0  # seconds, for an account that was never observed twice in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The order groups of one account as of its last observation.

    Attributes:
        groups: all that stand.
        missing: those of them that the latest polls did not see, unconfirmed.
    """

    groups: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """How many order groups of one account appeared, changed and disappeared in a span."""

    appeared: int = 0
    changed: int = 0
    disappeared: int = 0

    @property
    def total(self) -> int:
        """Return the number of all changes."""
        return self.appeared + self.changed + self.disappeared


def standing(connection: Connection, account: str) -> Standing:
    """Count the order groups that stand.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
    """
    states = order_group_snapshots
    groups, missing = connection.execute(
        select(func.count(), func.count(states.c.missing_since)).where(
            states.c.account == account, states.c.valid_to.is_(None)
        )
    ).one()
    return Standing(groups=groups, missing=missing)


def is_change() -> ColumnElement[bool]:
    """Return the condition on the view `order_group_changes` that a row is a change."""
    return views.order_group_changes.c.not_before.is_not(None)


def changes_of_all(
    connection: Connection, since: datetime, until: datetime | None = None
) -> dict[str, Changed]:
    """Count the changes of every account in a span; accounts without any are left out.

    The query covers all accounts, because for a single one SQLite would scan all its history.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        since: the span's first instant.
        until: its last; None for no end.
    """
    view = views.order_group_changes
    end = () if until is None else (view.c.changed_at <= until,)
    rows = connection.execute(
        select(view.c.account, view.c.change, func.count())
        .where(view.c.changed_at >= since, *end, is_change())
        .group_by(view.c.account, view.c.change)
    )
    counts: dict[str, dict[str, int]] = {}
    for account, change, count in rows:
        counts.setdefault(account, {})[change] = count
    return {account: Changed(**found) for account, found in counts.items()}


def recent(connection: Connection, account: str, interval: float | None) -> timedelta:
    """Return how old the last observation of an account may be for it to be observed now.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        account: its name.
        interval: seconds between its polls; None if it is not configured any more, in which case
            they are taken from its latest stretch of coverage.
    """
    if interval is None:
        interval = _usual_interval(connection, account)
    return timedelta(seconds=COVERAGE_INTERVALS * interval)


def _usual_interval(connection: Connection, account: str) -> float:
    row = connection.execute(
        select(coverage.c.started_at, coverage.c.ended_at, coverage.c.polls)
        .where(coverage.c.account == account, coverage.c.polls > 1)
        .order_by(coverage.c.started_at.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return _DEFAULT_INTERVAL
    started_at, ended_at, polls = row
    usual: float = (ended_at - started_at).total_seconds() / (polls - 1)
    return usual or _DEFAULT_INTERVAL
