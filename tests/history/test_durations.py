"""Durations in views are the same on both databases, and exact to the microsecond."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import accounts, coverage, order_group_snapshots

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Many of the instants lie near the start or the end of a second, where rounding would show.
_instants = st.builds(
    lambda second, micros: _EPOCH + timedelta(seconds=second, microseconds=micros),
    st.integers(0, 7_000_000_000),
    st.one_of(st.integers(0, 999_999), st.integers(999_400, 999_999), st.integers(0, 600)),
)


def exact(start: datetime, end: datetime) -> float:
    """Return the double that is nearest to the exact number of seconds."""
    return float(Fraction((end - start) // _MICROSECOND, 1_000_000))


class _UndoneError(Exception):
    """Rolls a transaction back."""


def seconds_in_views(
    database: Database, spans: list[tuple[datetime, datetime]]
) -> tuple[list[float], list[float]]:
    """Return the seconds that both views show for these spans, and leave no rows behind."""
    with suppress(_UndoneError), database.transaction() as connection:
        connection.execute(
            insert(accounts),
            {"account": "main", "version": 1, "failed_polls": 0, "refused_polls": 0},
        )
        connection.execute(
            insert(order_group_snapshots),
            [
                {
                    "account": "main",
                    "order_group_id": f"{number:06}",
                    "valid_from": start,
                    "valid_to": end,
                    "is_auto_cancel_enabled": False,
                    "end_reason": "removed",
                    "first_poll_id": 1,
                }
                for number, (start, end) in enumerate(spans)
            ],
        )
        connection.execute(
            insert(coverage),
            [
                {
                    "account": f"{number:06}",
                    "started_at": end,
                    "ended_at": end,
                    "polls": 1,
                    "gap_started_at": start,
                    "gap_cause": "timeout",
                }
                for number, (start, end) in enumerate(spans)
            ],
        )
        history, gaps = (
            list(connection.scalars(text(statement)))
            for statement in (
                "SELECT duration_seconds FROM order_group_history ORDER BY order_group_id",
                "SELECT seconds FROM coverage_gaps ORDER BY account",
            )
        )
        raise _UndoneError
    return history, gaps


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(st.tuples(_instants, _instants), min_size=1, max_size=40))
def test_both_databases_give_the_nearest_double(
    database: Database, spans: list[tuple[datetime, datetime]]
) -> None:
    expected = [exact(start, end) for start, end in spans]
    assert seconds_in_views(database, spans) == (expected, expected)


def test_a_duration_with_a_fraction_of_a_second(database: Database) -> None:
    start = datetime(2026, 11, 23, 14, 3, 0, 999_700, tzinfo=UTC)
    end = datetime(2026, 11, 23, 14, 4, 0, 200_000, tzinfo=UTC)
    assert seconds_in_views(database, [(start, end)]) == ([59.2003], [59.2003])


@pytest.mark.parametrize("revision", ["0002", "0006", "0007"])
def test_a_migrated_database_has_exact_durations(empty_database: Database, revision: str) -> None:
    migrate(empty_database, to=revision)
    migrate(empty_database)
    start = datetime(2026, 11, 23, 14, 3, 0, 999_700, tzinfo=UTC)
    end = start + timedelta(microseconds=1)
    assert seconds_in_views(empty_database, [(start, end)]) == ([1e-06], [1e-06])


def test_views_that_people_made_survive_the_migration(empty_database: Database) -> None:
    migrate(empty_database, to="0007")
    with empty_database.transaction() as connection:
        connection.execute(
            text("CREATE VIEW longest AS SELECT MAX(seconds) AS s FROM coverage_gaps")
        )
        connection.execute(text("CREATE VIEW pauses AS SELECT account, rest_until FROM accounts"))
        if empty_database.is_sqlite:
            connection.execute(text("CREATE VIEW broken AS SELECT * FROM nowhere"))
            connection.execute(
                text("CREATE TRIGGER asked INSTEAD OF INSERT ON longest BEGIN SELECT 1; END")
            )
    migrate(empty_database)
    with empty_database.transaction() as connection:
        assert connection.execute(text("SELECT s FROM longest")).all() == [(None,)]
        assert connection.execute(text("SELECT account FROM pauses")).all() == []
        if empty_database.is_sqlite:
            names = text("SELECT name FROM sqlite_master WHERE name IN ('broken', 'asked')")
            assert len(connection.execute(names).all()) == 2
