"""Test the parser of instants that people type."""

from datetime import UTC, datetime

import pytest

from exporter.reading.instants import parse_instant


@pytest.mark.parametrize(
    ("text", "instant", "assumed"),
    [
        ("2026-03-01T12:30:00Z", datetime(2026, 3, 1, 12, 30, tzinfo=UTC), False),
        ("2026-03-01T12:30:00.123456+05:45", datetime(2026, 3, 1, 6, 45, 0, 123456, UTC), False),
        (" 2026-03-01 12:30 ", datetime(2026, 3, 1, 12, 30, tzinfo=UTC), True),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC), True),
    ],
)
def test_instants_and_dates(text: str, instant: datetime, assumed: bool) -> None:
    assert parse_instant(text) == (instant, assumed)
    assert parse_instant(text)[0].tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-30", "12:30", "0001-01-01T00:00+01:00", "9" * 10_000]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an instant: write 2026-03-01T12:30:00Z") as caught:
        parse_instant(text)
    assert len(str(caught.value)) < 250
