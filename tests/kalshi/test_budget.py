"""The deadline of a poll."""

import pytest

from exporter.errors import DeadlineError
from exporter.kalshi import budget as module
from exporter.kalshi.budget import RequestBudget


def test_time_runs_out_once_and_says_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(module, "elapsed", lambda: now[0])
    budget = RequestBudget(2.5)
    assert budget.remaining() == 2.5
    now[0] += 2.0
    budget.check()
    budget.http_status = 200
    now[0] += 0.5
    with pytest.raises(
        DeadlineError, match=r"^no complete response within .* of 2\.5 s$"
    ) as caught:
        budget.check()
    assert caught.value.http_status == 200
    assert budget.remaining() <= 0.0
