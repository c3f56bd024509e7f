"""How long an account is left alone after failures, as one process knows it."""

from collections.abc import Callable

import pytest

from exporter.errors import ApiError, RateLimitedError, ServerError, UnauthorizedError
from exporter.recording import cooldown as module
from exporter.recording.cooldown import COOLDOWN, Cooldown, retry_after
from tests.support.clocks import make_elapsed_by_hand


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass on the steady clock."""
    return make_elapsed_by_hand(module, monkeypatch)


def poll(cooldown: Cooldown, error: ApiError | None) -> float:
    """Poll once, and return the seconds until the account may be polled again."""
    cooldown.begin()
    if error is None:
        cooldown.succeeded()
    else:
        cooldown.failed(error)
    return cooldown.remaining()


def test_three_refusals_in_a_row_begin_a_cooldown_that_ends_with_time(
    passed: Callable[[float], None],
) -> None:
    cooldown = Cooldown()
    refused = UnauthorizedError("refused")
    assert [poll(cooldown, refused) for _ in range(2)] == [0.0, 0.0]
    assert poll(cooldown, refused) == pytest.approx(COOLDOWN, abs=0.2)
    passed(COOLDOWN)
    assert cooldown.remaining() == 0.0
    # Still refused: the next cooldown needs no further three.
    assert poll(cooldown, refused) > 0.0


@pytest.mark.parametrize("between", [None, ServerError("busy")])
def test_anything_but_a_refusal_ends_the_row(between: ApiError | None) -> None:
    cooldown = Cooldown()
    refused = UnauthorizedError("refused")
    for error in (refused, refused, between, refused, refused):
        assert poll(cooldown, error) == 0.0


def test_refusals_of_other_exporters_count() -> None:
    cooldown = Cooldown()
    cooldown.know(2)
    assert poll(cooldown, UnauthorizedError("refused")) > 0.0


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (None, 0.0),
        (ServerError("busy"), 0.0),
        (RateLimitedError("slow down", retry_after=7.5), 7.5),
        (RateLimitedError("slow down", retry_after=86_400.0), 300.0),
    ],
)
def test_a_requested_pause_is_kept_within_reason(error: ApiError | None, seconds: float) -> None:
    assert retry_after(error) == seconds


def test_a_requested_pause_passes(passed: Callable[[float], None]) -> None:
    cooldown = Cooldown()
    assert poll(cooldown, RateLimitedError("slow down", retry_after=7.5)) == 7.5
    passed(5.0)
    assert cooldown.remaining() == 2.5
    passed(5.0)
    assert cooldown.remaining() == 0.0
