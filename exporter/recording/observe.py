"""Request an account's order groups once, and return the result as a `Poll`."""

from datetime import datetime

from exporter.clock import Clock
from exporter.errors import ApiError
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.order_groups import fetch_order_groups
from exporter.kalshi.session import SignedSession
from exporter.model import Observation, Poll


def observe(
    account: str,
    session: SignedSession,
    *,
    subaccount: int | None,
    deadline: float,
    known_digest: str | None,
    clock: Clock,
) -> tuple[Poll, ApiError | None]:
    """Read all order groups of an account, with as many attempts as the session allows.

    Args:
        account: its name.
        session: signs and sends.
        subaccount: None for all of them in one response.
        deadline: seconds for all attempts, pages and waits together.
        known_digest: of the latest observation, whose groups need no decoding if it comes again.
        clock: dates the poll.

    Returns:
        The poll, and why it failed; None if it did not.
    """
    started_at = clock.now()
    budget = RequestBudget(deadline)
    try:
        observation = fetch_order_groups(
            session, budget, subaccount=subaccount, known_digest=known_digest, now=clock.now
        )
    except ApiError as error:
        return _record(account, started_at, budget, clock, error=error), error
    return _record(account, started_at, budget, clock, observation=observation), None


def _record(
    account: str,
    started_at: datetime,
    budget: RequestBudget,
    clock: Clock,
    *,
    observation: Observation | None = None,
    error: ApiError | None = None,
) -> Poll:
    return Poll(
        account=account,
        started_at=started_at,
        finished_at=clock.now(),
        outcome="ok" if error is None else error.outcome,
        attempts=budget.attempts,
        http_status=budget.http_status,
        clock_skew_ms=budget.clock_skew_ms,
        error_code=None if error is None else error.code,
        error_message=None if error is None else error.message or error.reason,
        error_details=None if error is None else error.details,
        error_service=None if error is None else error.service,
        observation=observation,
    )
