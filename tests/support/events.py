"""Events as the hooks carry them, for tests of those who receive them."""

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from exporter.errors import Exit
from exporter.hooks import PollFinished

AT = datetime(2026, 11, 23, 14, 3, tzinfo=UTC)
"""When the polls of these events took place."""

_OK = PollFinished(
    account="main",
    started_at=AT,
    finished_at=AT,
    seconds=0.1,
    outcome="ok",
    attempts=1,
    clock_skew_ms=None,
    kept="database",
    exit_code=Exit.OK,
)


def poll_finished(at: datetime = AT, **fields: Any) -> PollFinished:
    """Return the event of a successful poll at an instant, with some fields replaced."""
    return replace(_OK, **({"started_at": at, "finished_at": at} | fields))
