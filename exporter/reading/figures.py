"""The one definition of each figure.

`status`, the report, the exports, the log and the metrics show the same numbers because they use
the same definitions:

- A group *stands* if it has an open snapshot: the rows of the view `order_groups_current`, and of
  `export groups`. A group that the latest polls missed still stands until enough of them confirm
  it, as the history says for the present instant. `polls.group_count` is
  another figure: the groups that one poll saw.
- A *change* is a row of the view `order_group_changes` with `not_before`. A group that was there at
  the account's first observation did not change then: it was found. `exporter.reading.activity`
  counts changes.
- An account is observed *now* if its next poll can still follow without a gap: if its last
  observation is no older than `COVERAGE_INTERVALS` intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, select

from exporter.history.schema import coverage, order_group_snapshots
from exporter.history.types import among
from exporter.model import COVERAGE_INTERVALS

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


def standing(connection: Connection, names: Sequence[str]) -> dict[str, Standing]:
    """Count the order groups of some accounts that stand; accounts without any are left out.

    Args:
        connection: from `exporter.reading.connect.read_only_transaction`.
        names: of the accounts.
    """
    states = order_group_snapshots
    rows = connection.execute(
        select(states.c.account, func.count(), func.count(states.c.missing_since))
        .where(among(connection, states.c.account, names), states.c.valid_to.is_(None))
        .group_by(states.c.account)
    )
    return {account: Standing(groups=groups, missing=missing) for account, groups, missing in rows}


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
