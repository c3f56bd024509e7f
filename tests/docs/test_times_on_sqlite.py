"""docs/queries.md says correctly which comparisons of instants work on SQLite."""

from exporter.history.schema import to_text
from tests.support.recipes import ROOT, recipe
from tests.support.recorder import Recorder

HOUR = 3600
POLLS = (0, 1.5 * HOUR, 2.25 * HOUR, 2.75 * HOUR)  # seconds; all on one day
NOW = 3 * HOUR
WRONG = "started_at > datetime('now', '-1 hour')"


def selected(recorder: Recorder, query: str) -> list[str]:
    """Return the start of each poll that a query selects, with `NOW` as the current time."""
    assert query.count("'now'") == 1
    query = query.replace("'now'", f"'{recorder.at(NOW):%Y-%m-%d %H:%M:%S}'")
    with recorder.database.transaction() as connection:
        rows = connection.exec_driver_sql(query).mappings().all()
    return sorted(row["started_at"] for row in rows)


def test_the_recommended_comparison_works_and_the_other_selects_too_much(
    sqlite_recorder: Recorder,
) -> None:
    for seconds in POLLS:
        sqlite_recorder.ok(seconds, [])
    began = [to_text(sqlite_recorder.at(seconds - 0.2)) for seconds in POLLS]
    assert f"`{WRONG}`" in (ROOT / "docs" / "queries.md").read_text("utf-8")

    right = recipe("queries.md", "sql recent").strip().removesuffix(";")
    condition = right[right.index("started_at >") :]
    assert selected(sqlite_recorder, right) == began[2:]
    assert selected(sqlite_recorder, right.replace(condition, WRONG)) == began
