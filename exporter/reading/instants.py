"""Instants as people type them for `--as-of`, `--since` and `--until`."""

from datetime import UTC, datetime


def parse_instant(text: str) -> tuple[datetime, bool]:
    """Read an ISO 8601 instant or date, such as `2026-03-01T12:30:00Z` or `2026-03-01`.

    A date means its midnight. Without an offset the text is taken as UTC.

    Returns:
        The instant in UTC, and whether UTC had to be assumed.

    Raises:
        ValueError: the text is no such instant; the message is for the user who typed it.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
        assumed = instant.tzinfo is None
        return (instant.replace(tzinfo=UTC) if assumed else instant.astimezone(UTC)), assumed
    except (ValueError, OverflowError):  # no instant at all; one beyond the calendar's ends
        raise ValueError(
            f"{text[:60]!r} is not an instant: write 2026-03-01T12:30:00Z, another offset in place"
            " of Z, or a date, 2026-03-01, for its midnight in UTC"
        ) from None
