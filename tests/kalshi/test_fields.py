"""Canonical limits are recognized, one by one and many at once."""

import pytest

from exporter.kalshi.fields import are_canonical, decimal, is_canonical

CANONICAL = ["0.00", "10.00", "2.50", "-1.00", "0.125", "999999999999999999999.00"]
OTHER = ["", "1", "1.0", "01.00", "1.000", "-0.00", "1e3", "1.00\n2.00", "1.00\n", "\n", "9" * 60]


@pytest.mark.parametrize("limit", CANONICAL)
def test_a_canonical_limit_is_its_own_decimal(limit: str) -> None:
    assert is_canonical(limit)
    assert decimal(limit) == limit
    assert are_canonical([None, "3.00", limit, "4.00"])


@pytest.mark.parametrize("limit", OTHER)
def test_a_limit_that_is_not_canonical_is_found_among_others(limit: str) -> None:
    assert not is_canonical(limit)
    assert not are_canonical([None, "3.00", limit, "4.00"])
    assert not are_canonical([limit])


def test_absent_limits_count_as_canonical() -> None:
    assert are_canonical([])
    assert are_canonical([None, None])
