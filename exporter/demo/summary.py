"""The summary of what the demo recorded, read with plain SQL from the tables and views.

`run` prints it at the end.
"""

import math
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from exporter.demo.place import Place
from exporter.demo.show import Display, cut

_LATEST_CHANGES = 10
_INTERVAL = timedelta(seconds=1)  # as `place` configures it
_LATEST_FAILURES = 6
_ROWS_OF_PAST = 4
_SHORT_ID = 8
_MESSAGE = 30  # characters that the longest outcome leaves on a line

_CURRENT = """
SELECT order_group_id, contracts_limit, is_auto_cancel_enabled, first_seen_at, last_changed_at
FROM order_groups_current ORDER BY first_seen_at, order_group_id"""

_CHANGES = """
SELECT changed_at, not_before, order_group_id, change, old_contracts_limit, new_contracts_limit,
       old_is_auto_cancel_enabled, new_is_auto_cancel_enabled
FROM order_group_changes WHERE not_before IS NOT NULL
ORDER BY changed_at DESC, order_group_id LIMIT ?"""

_TRIGGERS = """
SELECT triggered_at, ended_at, ended_by, order_group_id, evidence
FROM order_group_triggers ORDER BY triggered_at, order_group_id"""

_FAILURES = """
SELECT id, started_at, outcome, http_status, attempts, error_message
FROM polls WHERE outcome <> 'ok' ORDER BY id DESC LIMIT ?"""

_GAPS = "SELECT gap_start, gap_end, seconds, cause FROM coverage_gaps ORDER BY gap_start"

# The instant is that of the first change after the middle poll, or of that poll itself.
_AN_INSTANT = """
SELECT COALESCE(
    (SELECT MIN(changed_at) FROM order_group_changes WHERE changed_at > middle.observed_at),
    middle.observed_at)
FROM (SELECT observed_at FROM polls WHERE observed_at IS NOT NULL ORDER BY id
      LIMIT 1 OFFSET (SELECT COUNT(observed_at) / 2 FROM polls)) AS middle"""

_STOOD_AT = """
  SELECT order_group_id, contracts_limit, is_auto_cancel_enabled
  FROM order_group_snapshots
  WHERE valid_from <= '{instant}'
    AND (valid_to IS NULL OR valid_to > '{instant}')
  ORDER BY order_group_id"""

_A_BUSY_GROUP = """
SELECT order_group_id FROM order_group_history
GROUP BY order_group_id ORDER BY COUNT(*) DESC, MAX(valid_from) DESC LIMIT 1"""


def count_polls(place: Place) -> int:
    """Return how many polls the database has numbered."""
    with closing(sqlite3.connect(place.database)) as connection:
        polls: int = connection.execute("SELECT COALESCE(MAX(id), 0) FROM polls").fetchone()[0]
    return polls


def show_summary(display: Display, place: Place) -> None:
    """Print what the database holds, where it is, and commands to query it."""
    with closing(sqlite3.connect(place.database)) as connection:
        connection.row_factory = sqlite3.Row
        _show_current(display, connection)
        _show_changes(display, connection)
        _show_triggers(display, connection)
        _show_failures(display, connection)
        _show_coverage(display, connection)
        _show_next_steps(display, place, connection)


def _show_current(display: Display, connection: sqlite3.Connection) -> None:
    rows = connection.execute(_CURRENT).fetchall()
    _heading(display, f"{_counted(len(rows), 'group')} at the end", "view order_groups_current")
    cells = [
        (
            row["order_group_id"][:_SHORT_ID],
            f"{row['contracts_limit']:>9}",
            _state(row["is_auto_cancel_enabled"]),
            _time(row["first_seen_at"]),
            _time(row["last_changed_at"]),
        )
        for row in rows
    ]
    _table(display, ("group", "    limit", "state", "first seen", "last changed"), cells)


def _show_changes(display: Display, connection: sqlite3.Connection) -> None:
    # Groups that existed at the first poll are no changes.
    (count,) = connection.execute(
        "SELECT COUNT(*) FROM order_group_changes WHERE not_before IS NOT NULL"
    ).fetchone()
    rows = connection.execute(_CHANGES, (_LATEST_CHANGES,)).fetchall()[::-1]
    latest = f", the latest {len(rows)}" if count > len(rows) else ""
    _heading(display, f"{_counted(count, 'change')}{latest}", "view order_group_changes")
    cells = [
        (
            _time(row["not_before"]),
            _time(row["changed_at"]),
            row["order_group_id"][:_SHORT_ID],
            _what_changed(row),
        )
        for row in rows
    ]
    _table(display, ("not_before", "changed_at", "group", "change"), cells)
    display.line(
        click.style(
            "  not_before: the last poll before it; changed_at: the first poll that saw it",
            dim=True,
        )
    )


def _show_triggers(display: Display, connection: sqlite3.Connection) -> None:
    rows = connection.execute(_TRIGGERS).fetchall()
    # Only polls on the grid count, because the other polls are due to the events themselves.
    (first,) = connection.execute("SELECT MIN(started_at) FROM polls").fetchone()
    seen = sum(_lasts_until_a_poll(row, first) for row in rows)
    _heading(
        display,
        f"{_counted(len(rows), 'trigger')}; polling alone would show {seen} of them",
        "view order_group_triggers",
    )
    cells = [
        (
            _time(row["triggered_at"]),
            "" if row["ended_at"] is None else _time(row["ended_at"]),
            row["ended_by"] or "",
            row["order_group_id"][:_SHORT_ID],
            row["evidence"],
        )
        for row in rows[-_LATEST_CHANGES:]
    ]
    _table(display, ("triggered_at", "ended_at", "ended_by", "group", "evidence"), cells)


def _lasts_until_a_poll(trigger: sqlite3.Row, first_poll: str) -> bool:
    """Return whether polls on the grid alone, one a second, would see a trigger."""
    if trigger["ended_at"] is None:
        return True
    began, ended = (
        (datetime.fromisoformat(trigger[name]) - datetime.fromisoformat(first_poll)) / _INTERVAL
        for name in ("triggered_at", "ended_at")
    )
    return math.floor(ended) > math.floor(began)


def _show_failures(display: Display, connection: sqlite3.Connection) -> None:
    (failed, polls) = connection.execute(
        "SELECT COUNT(*) FILTER (WHERE outcome <> 'ok'), COUNT(*) FROM polls"
    ).fetchone()
    rows = connection.execute(_FAILURES, (_LATEST_FAILURES,)).fetchall()[::-1]
    latest = f", the latest {len(rows)}" if failed > len(rows) else ""
    _heading(display, f"{failed} of {_counted(polls, 'poll')} failed{latest}", "table polls")
    cells = [
        (
            f"{row['id']:>4}",
            _time(row["started_at"]),
            f"{row['attempts']:>8}",
            row["outcome"],
            cut(row["error_message"] or "", _MESSAGE),
        )
        for row in rows
    ]
    _table(display, ("poll", "started at", "attempts", "outcome", "message"), cells)


def _show_coverage(display: Display, connection: sqlite3.Connection) -> None:
    rows = connection.execute(_GAPS).fetchall()
    (stretches,) = connection.execute("SELECT COUNT(*) FROM coverage").fetchone()
    gaps = f"with {_counted(len(rows), 'gap')} between" if rows else "without a gap"
    _heading(
        display, f"Observed in {_counted(stretches, 'stretch', 'es')}, {gaps}", "view coverage_gaps"
    )
    cells = [
        (_time(row["gap_start"]), _time(row["gap_end"]), f"{row['seconds']:>7.1f}", row["cause"])
        for row in rows
    ]
    _table(display, ("from", "to", "seconds", "cause"), cells)


def _what_changed(row: sqlite3.Row) -> str:
    limit, state = row["new_contracts_limit"], _state(row["new_is_auto_cancel_enabled"])
    if row["change"] == "disappeared":
        return "disappeared"
    if row["change"] == "appeared":
        return f"appeared: limit {limit}, {state}"
    changes = []
    if row["old_contracts_limit"] != limit:
        changes.append(f"limit {row['old_contracts_limit']} -> {limit}")
    if row["old_is_auto_cancel_enabled"] != row["new_is_auto_cancel_enabled"]:
        changes.append("triggered" if row["new_is_auto_cancel_enabled"] else "reset")
    return ", ".join(changes)


def _show_next_steps(display: Display, place: Place, connection: sqlite3.Connection) -> None:
    """Answer a question about the past in SQL, and list commands that answer more."""
    command = _command()
    (instant,) = connection.execute(_AN_INSTANT).fetchone() or (None,)
    if instant is not None:  # else the demo ended before its first observation
        _show_past(display, connection, instant)
        (group_id,) = connection.execute(_A_BUSY_GROUP).fetchone()
        _heading(display, "Ask more, where the files are")
        display.line(f"  cd {shlex.quote(str(place.directory))}")
        display.line(f"  {command} report")
        display.line(f"  {command} export groups --as-of {instant}")
        display.line(f"  {command} export history --group {group_id}")
    _heading(display, "Record an account of your own")
    display.line(f"  {command} init")
    display.line()
    display.line(f"The database       {place.database}")
    display.line(f"Its configuration  {place.configuration}")


def _show_past(display: Display, connection: sqlite3.Connection, instant: str) -> None:
    rows = connection.execute(_STOOD_AT.format(instant=instant)).fetchall()
    _heading(display, f"What existed at {_time(instant)}?", "SQL for any client of SQLite")
    display.line(click.style(_STOOD_AT.format(instant=instant).strip("\n"), dim=True))
    display.line()
    cells = [
        (row["order_group_id"], f"{row['contracts_limit']:>9}", _state(row[2]))
        for row in rows[:_ROWS_OF_PAST]
    ]
    _table(display, ("order_group_id", "    limit", "state"), cells)
    if len(rows) > len(cells):
        display.line(f"  and {_counted(len(rows) - len(cells), 'more row')}")


def _command() -> str:
    """Return the command that runs this program again."""
    path = Path(sys.argv[0])
    if path.name != "kalshi-exporter":
        return f"{shlex.quote(sys.executable)} -m exporter"
    return path.name if shutil.which(path.name) == str(path) else shlex.quote(str(path.absolute()))


def _heading(display: Display, text: str, source: str = "") -> None:
    display.line()
    shown = click.style(text, bold=True)
    display.line(f"{shown}  {click.style(f'({source})', dim=True)}" if source else shown)


def _table(display: Display, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    widths = [max(len(cell) for cell in column) for column in zip(names, *rows, strict=True)]

    def spaced(cells: Sequence[str]) -> str:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"  {'  '.join(padded)}".rstrip()

    display.line(click.style(spaced(names), dim=True))
    for row in rows:
        display.line(spaced(row))


def _time(instant: str) -> str:
    """Return the time of day of one of SQLite's instants, to the millisecond."""
    return datetime.fromisoformat(instant).strftime("%H:%M:%S.%f")[:-3]


def _state(triggered: object) -> str:
    return "triggered" if triggered else "active"


def _counted(count: int, what: str, ending: str = "s") -> str:
    return f"{count} {what}{'' if count == 1 else ending}"
