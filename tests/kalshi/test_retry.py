"""Back-off: which failures are retried, and after how long."""

import statistics

import pytest

from exporter.errors import (
    ApiError,
    DeadlineError,
    InvalidResponseError,
    RateLimitedError,
    RejectedError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from exporter.kalshi.retry import log_retry, wait_before_retry


@pytest.mark.parametrize("kind", [UnreachableError, ServerError, RateLimitedError])
def test_waiting_may_help_against_these(kind: type[ApiError]) -> None:
    assert wait_before_retry(kind("failed"), 1) is not None


@pytest.mark.parametrize(
    "kind", [UnauthorizedError, RejectedError, InvalidResponseError, DeadlineError]
)
def test_no_retry_helps_against_these(kind: type[ApiError]) -> None:
    assert wait_before_retry(kind("failed"), 1) is None


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (99, 8.0)])
def test_the_wait_has_full_jitter_below_a_ceiling_that_doubles(
    attempt: int, ceiling: float
) -> None:
    waits = [wait_before_retry(ServerError("busy"), attempt) or 0.0 for _ in range(1_000)]
    assert 0.0 <= min(waits) < ceiling / 10
    assert ceiling * 0.9 < max(waits) <= ceiling
    assert statistics.fmean(waits) == pytest.approx(ceiling / 2, rel=0.2)


def test_the_exchange_may_ask_for_more_but_not_for_less() -> None:
    more = [wait_before_retry(RateLimitedError("busy", retry_after=60.0), 1) for _ in range(99)]
    assert set(more) == {60.0}
    less = [wait_before_retry(RateLimitedError("busy", retry_after=0.1), 4) or 0 for _ in range(99)]
    assert min(less) >= 0.1
    assert max(less) > 1.0


def test_a_retry_is_logged_with_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    failure = ServerError("responded 503: busy", summary="responded 503", http_status=503, code="b")
    log_retry(failure, 2, 0.75, account="main")
    [record] = caplog.records
    facts = vars(record)
    assert record.getMessage() == "responded 503"
    assert (facts["event"], facts["account"], facts["attempt"]) == ("attempt_failed", "main", 2)
    assert (facts["outcome"], facts["http_status"], facts["code"]) == ("server_error", 503, "b")
    assert facts["next"] == "retry in 0.8 s"
