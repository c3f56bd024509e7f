"""A poll's row in `polls`, and the result of writing it."""

from typing import Any

import msgspec
from sqlalchemy import Connection, case, select, update

from exporter import __version__
from exporter.errors import Outcome
from exporter.history.diff import Changes
from exporter.history.gap_cause import explain_late
from exporter.history.schema import coverage, polls
from exporter.model import Poll


class WriteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll left in the database.

    Attributes:
        outcome: the poll's own, or "superseded".
        group_count, added, changed, removed: as in `polls`; None unless the outcome is "ok".
        found: those of `added` that were there at the account's first observation: they did not
            appear then, and are no changes.
        missing: groups that this poll did not see, but whose removal is not confirmed yet.
    """

    outcome: Outcome
    group_count: int | None = None
    added: int | None = None
    changed: int | None = None
    removed: int | None = None
    found: int = 0
    missing: int = 0

    @property
    def standing(self) -> int | None:
        """How many groups stand after the poll: the figure of `exporter.reading.figures`."""
        return None if self.group_count is None else self.group_count + self.missing

    @property
    def appeared(self) -> int | None:
        """How many groups appeared: a change, as `exporter.reading.figures` counts them."""
        return None if self.added is None else self.added - self.found


def written_before(connection: Connection, poll: Poll) -> WriteResult | None:
    """Return the result of a poll that is in the database already; None if it is not.

    This happens if its exporter lost the connection during the commit and spooled the poll.
    """
    first = (
        select(coverage.c.account)
        .where(
            coverage.c.account == polls.c.account,
            coverage.c.started_at == polls.c.observed_at,
            coverage.c.gap_started_at.is_(None),
        )
        .exists()
    )
    statement = select(
        polls.c.outcome,
        polls.c.group_count,
        polls.c.added,
        polls.c.changed,
        polls.c.removed,
        case((first, polls.c.added), else_=0).label("found"),
    ).where(
        polls.c.account == poll.account,
        polls.c.started_at == poll.started_at,
        polls.c.finished_at == poll.finished_at,
    )
    row = connection.execute(statement).first()
    return None if row is None else WriteResult(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name


def superseded(connection: Connection, poll: Poll) -> WriteResult:
    """Count a poll that came too late for the gap it was in, and return its result.

    Args:
        connection: in the transaction that has recorded the poll.
        poll: it saw a response, but another exporter has observed the account since.
    """
    explain_late(connection, poll.account, "superseded", started_at=poll.started_at)
    return WriteResult(outcome="superseded")


def row_of(poll: Poll, **values: Any) -> dict[str, Any]:
    """Return a poll's row as `advance.insert_poll` takes it; `values` override the poll's own."""
    row = {
        "account": poll.account,
        "started_at": poll.started_at,
        "finished_at": poll.finished_at,
        "outcome": poll.outcome,
        "http_status": poll.http_status,
        "attempts": poll.attempts,
        "error_code": poll.error_code,
        "error_message": poll.error_message,
        "error_details": poll.error_details,
        "error_service": poll.error_service,
        "clock_skew_ms": poll.clock_skew_ms,
        "exporter_version": __version__,
    }
    return {f"poll_{name}": value for name, value in (NOT_OBSERVED | row | values).items()}


NOTHING_CHANGED = {"added": 0, "changed": 0, "removed": 0}
NOT_OBSERVED = dict.fromkeys(("observed_at", "group_count", "added", "changed", "removed"))


def update_poll(connection: Connection, poll: Poll, poll_id: int, **values: Any) -> None:
    """Change columns of the row of a poll that this transaction has inserted."""
    connection.execute(
        update(polls)
        .where(
            polls.c.account == poll.account,
            polls.c.started_at == poll.started_at,
            polls.c.id == poll_id,
        )
        .values(values)
    )


def counts_of(changes: Changes) -> dict[str, int]:
    """Return how many groups the poll saw change; a removal counts once it is confirmed."""
    return {
        "added": len(changes.added),
        "changed": len(changes.changed),
        "removed": len(changes.removed),
    }
