"""Back-off between the attempts of one request."""

import logging
import random

from exporter.errors import ApiError

_FIRST_WAIT = 0.5  # seconds
_LONGEST_WAIT = 8.0  # seconds

_log = logging.getLogger(__name__)


def wait_before_retry(failure: ApiError, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt; None if a retry would not help.

    The exchange's Retry-After is a lower bound.

    Args:
        failure: of the latest attempt.
        attempt: its number, from 1.
    """
    if not failure.retryable:
        return None
    ceiling = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
    # Full jitter: exporters that failed at the same time do not retry at the same time.
    return max(random.uniform(0, ceiling), failure.retry_after or 0.0)  # noqa: S311  # no secret


def log_retry(failure: ApiError, attempt: int, wait: float, *, account: str) -> None:
    """Log a failed attempt that will be retried.

    Args:
        failure: of the attempt.
        attempt: its number, from 1.
        wait: seconds until the next attempt.
        account: its name.
    """
    _log.warning(
        "%s",
        failure.summary,
        extra={
            "event": "attempt_failed",
            "account": account,
            "outcome": failure.outcome,
            "http_status": failure.http_status,
            "code": failure.code,
            "error": failure.message,
            "details": failure.details,
            "service": failure.service,
            "attempt": attempt,
            "next": f"retry in {wait:.1f} s",
        },
    )
