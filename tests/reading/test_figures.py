"""Test that status, export, views and report show the same figures."""

import csv
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from exporter.model import OrderGroup
from exporter.reading import figures
from exporter.reading.activity import Activity, activity_since
from exporter.reading.connect import read_only_transaction
from exporter.reading.export import export
from exporter.reading.status import AccountStatus, status
from exporter.reading.status_text import render_table
from exporter.report.counting import tally_of
from exporter.report.coverage import observed
from exporter.report.groups import Groups, groups
from exporter.report.span import Span, cut

A, B, C = (OrderGroup(name, False) for name in "abc")
TRIGGERED = OrderGroup("a", True)
MINUTE = 60


@pytest.fixture
def eventful(recorder: Any) -> Any:
    """Record two groups, of which one changes and one disappears, and a third that goes missing."""
    recorder.ok(0, [A, B])
    recorder.ok(MINUTE, [TRIGGERED, B])
    recorder.ok(2 * MINUTE, [TRIGGERED, B, C])
    recorder.ok(3 * MINUTE, [TRIGGERED, C])
    recorder.ok(4 * MINUTE, [TRIGGERED, C])
    recorder.ok(5 * MINUTE, [TRIGGERED])
    return recorder


def one_status(recorder: Any, seconds: float) -> AccountStatus:
    (found,) = status(recorder.url, [("main", 60.0)], now=recorder.at(seconds))
    return found


def test_current_groups_are_the_same_everywhere(eventful: Any, tmp_path: Path) -> None:
    found = one_status(eventful, 5 * MINUTE + 1)
    assert (found.groups, found.missing) == (2, 1)
    assert "  1 of the groups is missing, to be confirmed" in render_table([found]).splitlines()

    exported = tmp_path / "groups.csv"
    assert export(eventful.url, "groups", output=exported).rows == found.groups
    assert (
        export(eventful.url, "groups", as_of=eventful.at(5 * MINUTE), output=exported).rows
        == found.groups
    )
    rows = csv.DictReader(exported.read_text(encoding="utf-8").splitlines())
    missing = [row["missing_since"] for row in rows]
    assert sum(map(bool, missing)) == found.missing

    with read_only_transaction(eventful.url) as connection:
        standing = figures.standing(connection, ["main", "unknown"])
        assert standing == {"main": figures.Standing(groups=2, missing=1)}
        view = connection.execute(text("SELECT COUNT(*) FROM order_groups_current")).scalar()
        report = _groups(eventful, connection)
    assert view == found.groups
    assert report.now[0] == found.groups


def test_changes_are_the_same_everywhere(eventful: Any) -> None:
    found = one_status(eventful, 5 * MINUTE + 1)
    with read_only_transaction(eventful.url) as connection:
        activity = activity_since(connection, eventful.at(-1))
        report = _groups(eventful, connection)
    # The change is one of the flag: nobody listened, so it is a trigger too.
    assert activity == {"main": Activity(appeared=1, changed=1, disappeared=1, triggers=1)}
    assert found.changes == activity["main"].changes == 3
    assert report.total == (1, 1, 1)


def test_groups_of_the_first_poll_are_no_changes(recorder: Any) -> None:
    recorder.ok(0, [A, B])
    assert one_status(recorder, 1).changes == 0
    with read_only_transaction(recorder.url) as connection:
        assert activity_since(connection, recorder.at(-1)) == {}
        report = _groups(recorder, connection)
    assert report.total == (0, 0, 0)


def test_changes_at_the_first_instant_count(eventful: Any) -> None:
    with read_only_transaction(eventful.url) as connection:
        found = activity_since(connection, eventful.at(2 * MINUTE))
    assert found == {"main": Activity(appeared=1, disappeared=1)}


@pytest.mark.parametrize("interval", [60.0, None])
def test_without_a_configured_interval_the_last_polls_interval_counts(
    recorder: Any, interval: float | None
) -> None:
    for number in range(4):
        recorder.ok(10 * number, [A], interval=10)
    with read_only_transaction(recorder.url) as connection:
        expected = timedelta(seconds=25 if interval is None else 150)
        assert figures.recent(connection, "main", interval) == expected
        assert figures.recent(connection, "unknown", None) == timedelta(seconds=150)


def _span(recorder: Any) -> Span:
    return cut(recorder.at(-MINUTE), recorder.at(10 * MINUTE), sharing=1, interval=60.0)


def _groups(recorder: Any, connection: Any) -> Groups:
    span = _span(recorder)
    tally = tally_of(connection, "main", span, [])
    return groups(tally, span, _seen(recorder, connection))


def _seen(recorder: Any, connection: Any) -> bytearray:
    return observed(
        connection, "main", _span(recorder), interval=60.0, now=recorder.at(5 * MINUTE)
    ).seen
