"""Tables for the exchange's events and their coverage, and views of triggers and gaps.

The views relate events to what polls saw: see `docs/stream.md`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the views on them."""
    _create_tables()
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    if on_sqlite:
        op.execute("DROP VIEW order_group_changes")
    # Postgres replaces the view in place, because other views may depend on it.
    op.execute(
        f"CREATE {'' if on_sqlite else 'OR REPLACE'} VIEW order_group_changes AS {_changes()}"
    )
    op.execute(f"CREATE VIEW stream_gaps AS {_gaps()}")
    op.execute(f"CREATE VIEW order_group_triggers AS {_triggers()}")


def _create_tables() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    instant: sa.types.TypeEngine[Any] = sa.Text() if on_sqlite else sa.TIMESTAMP(timezone=True)
    decimal = sa.Text() if on_sqlite else sa.Numeric()
    json = sa.Text() if on_sqlite else sa.JSON()

    op.add_column("accounts", sa.Column("stream_end_cause", sa.Text()))
    op.add_column("accounts", sa.Column("stream_ended_at", instant))
    for name in ("order_group_events", "undecided_events"):
        op.create_table(
            name,
            sa.Column("account", sa.Text(), primary_key=True),
            sa.Column("order_group_id", sa.Text(), primary_key=True),
            sa.Column("occurred_at", instant, primary_key=True),
            sa.Column("identity", sa.Text(), primary_key=True),
            sa.Column("event_type", sa.Text(), nullable=False),
            sa.Column("event_at", instant),
            sa.Column("contracts_limit", decimal),
            sa.Column("received_at", instant, nullable=False),
            sa.Column("extra", json),
            *([sa.Column("kept_after", instant)] if name == "undecided_events" else []),
            sqlite_with_rowid=False,
        )
    op.create_index("order_group_events_event_at", "order_group_events", ["event_at"])
    op.create_table(
        "groups_of_others",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("order_group_id", sa.Text(), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stream_coverage",
        sa.Column("account", sa.Text(), primary_key=True),
        sa.Column("started_at", instant, primary_key=True),
        sa.Column("ended_at", instant, nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("last_event_at", instant),
        sa.Column("gap_started_at", instant),
        sa.Column("gap_cause", sa.Text()),
        sa.Column("is_latest", sa.Boolean(), nullable=False),
    )
    op.create_index(
        "stream_coverage_latest",
        "stream_coverage",
        ["account"],
        unique=True,
        sqlite_where=sa.text("is_latest"),
        postgresql_where=sa.text("is_latest"),
    )


# The exchange's state in a response may be this many seconds old when its last byte arrives.
_POLL_LAG = 20
# An event may arrive this many seconds after a poll that already shows its effect.
_EVENT_LAG = 10
# The clocks of the exchange and of this machine never differ by this many seconds, because the
# exchange would refuse the requests.
_SKEW = 600


def _shifted(instant: str, seconds: int) -> str:
    """Return the expression of an instant some seconds later."""
    if op.get_bind().dialect.name == "postgresql":
        return f"({instant} + INTERVAL '{seconds} seconds')"
    return f"(strftime('%Y-%m-%dT%H:%M:%f', {instant}, '{seconds:+} seconds') || '000Z')"


def _beginning() -> str:
    """Return an instant before all others."""
    return "CAST('-infinity' AS timestamptz)" if _on_postgres() else "''"


def _seconds(start: str, end: str) -> str:
    """Return the expression of the seconds between two instants, exact to the microsecond."""
    if op.get_bind().dialect.name == "postgresql":
        return f"CAST(EXTRACT(EPOCH FROM ({end} - {start})) AS double precision)"
    return (
        f"((strftime('%s', substr({end}, 1, 19)) - strftime('%s', substr({start}, 1, 19)))"
        f" * 1000000 + substr({end}, 21, 6) - substr({start}, 21, 6)) / 1000000.0"
    )


def _explaining(
    *,
    value: str,
    whose: str,
    kind: str,
    matches: str,
    changed_at: str,
    not_before: str,
    valid_to: str,
    previous: str,
) -> str:
    """Return the expression of the event that explains a change, or null if none was heard.

    Args:
        value: the value of the event `e` that the expression returns.
        whose: the alias of the row with the account and the group.
        kind: the condition that `e` can change this column.
        matches: the condition that `e` sets the new value.
        changed_at: when a poll first saw the new state.
        not_before: the last poll that saw the old state; null if there was none.
        valid_to: the end of the new state; null while it is open.
        previous: the last poll that saw the state before the old one; null if there was none.
    """
    # Bounds on the primary key, so that the query does not read all events of the group.
    from_ = f"COALESCE({_shifted(not_before, -_SKEW)}, {_beginning()})"
    events = (
        "FROM order_group_events e"
        f" WHERE e.account = {whose}.account AND e.order_group_id = {whose}.order_group_id"
        f" AND e.occurred_at >= {from_} AND e.occurred_at <= {_shifted(changed_at, _SKEW)}"
        f" AND {kind}"
    )
    if_it_matches = f"CASE WHEN {matches} THEN {value} END"
    # First choice: the last match between the two polls. The response may predate later events.
    between = (
        f"(SELECT {value} {events} AND {matches}"
        f" AND (e.received_at > {not_before} OR {not_before} IS NULL)"
        f" AND e.received_at <= {changed_at} ORDER BY e.received_at DESC LIMIT 1)"
    )
    # Second choice: the event arrived after the poll that shows it, though a daemon listened.
    after = (
        f"(SELECT {if_it_matches} {events} AND e.received_at > {changed_at}"
        f" AND e.received_at <= {_shifted(changed_at, _EVENT_LAG)}"
        f" AND (e.received_at < {valid_to} OR {valid_to} IS NULL)"
        " AND EXISTS (SELECT 1 FROM stream_coverage l"
        f" WHERE l.account = {whose}.account AND l.started_at <= {not_before}"
        f" AND l.ended_at >= {changed_at})"
        " ORDER BY e.received_at LIMIT 1)"
    )
    # Third choice: the event arrived before a poll that did not show it yet.
    before = (
        f"(SELECT {if_it_matches} {events} AND e.received_at <= {not_before}"
        f" AND e.received_at > {_shifted(not_before, -_POLL_LAG)}"
        f" AND (e.received_at > {previous} OR {previous} IS NULL)"
        " ORDER BY e.received_at DESC LIMIT 1)"
    )
    return f"COALESCE({between}, {after}, {before})"


def _explaining_flag(value: str) -> str:
    """Return the event that explains why the flag changed from `p` to `s`."""
    return _explaining(
        value=value,
        whose="p",
        kind="e.event_type IN ('triggered', 'reset')",
        matches="(e.event_type = 'triggered') = "
        + ("s.is_auto_cancel_enabled" if _on_postgres() else "(s.is_auto_cancel_enabled <> 0)"),
        changed_at="p.valid_to",
        not_before="s.not_before",
        valid_to="s.valid_to",
        previous="p.not_before",
    )


def _explaining_limit(value: str) -> str:
    """Return the event that explains why the limit changed from `p` to `s`."""
    return _explaining(
        value=value,
        whose="p",
        kind="e.event_type = 'limit_updated'",
        matches="(e.contracts_limit = s.contracts_limit"
        " OR COALESCE(e.contracts_limit, s.contracts_limit) IS NULL)",
        changed_at="p.valid_to",
        not_before="s.not_before",
        valid_to="s.valid_to",
        previous="p.not_before",
    )


def _explaining_life(event_type: str, changed_at: str, not_before: str, valid_to: str) -> str:
    """Return the event that explains why a group, `s`, appeared or disappeared."""
    return _explaining(
        value="e.event_at",
        whose="s",
        kind="e.event_type IN ('created', 'deleted')",
        matches=f"e.event_type = '{event_type}'",
        changed_at=changed_at,
        not_before=not_before,
        valid_to=valid_to,
        previous="NULL",
    )


def _on_postgres() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")


def _differs(column: str) -> str:
    operator = "IS DISTINCT FROM" if _on_postgres() else "IS NOT"
    return f"p.{column} {operator} s.{column}"


_MAY_HAVE_APPEARED = "COALESCE(s.begin_reason, 'appeared') = 'appeared'"

_NEW = """
    NULL AS old_is_auto_cancel_enabled, s.is_auto_cancel_enabled AS new_is_auto_cancel_enabled,
    NULL AS old_contracts_limit, s.contracts_limit AS new_contracts_limit,
    NULL AS old_exchange_index, s.exchange_index AS new_exchange_index,
    NULL AS old_extra, s.extra AS new_extra
"""


def _changes() -> str:
    """Return the view of 0007 with the event's time as its last column."""
    by_flag = _explaining_flag("e.event_at")
    by_limit = _explaining_limit("e.event_at")
    flag = f"CASE WHEN {_differs('is_auto_cancel_enabled')} THEN {by_flag} END"
    limit = f"CASE WHEN {_differs('contracts_limit')} THEN {by_limit} END"
    latest = (
        f"GREATEST({flag}, {limit})"
        if _on_postgres()
        # In SQLite, MAX of two values is null if one of them is null.
        else f"NULLIF(MAX(COALESCE({flag}, ''), COALESCE({limit}, '')), '')"
    )
    appeared = _explaining_life("created", "s.valid_from", "s.not_before", "s.valid_to")
    disappeared = _explaining_life("deleted", "s.valid_to", "s.last_seen_at", "NULL")
    return f"""
SELECT p.account, p.order_group_id, p.valid_to AS changed_at, s.not_before, 'changed' AS change,
       p.is_auto_cancel_enabled AS old_is_auto_cancel_enabled,
       s.is_auto_cancel_enabled AS new_is_auto_cancel_enabled,
       p.contracts_limit AS old_contracts_limit, s.contracts_limit AS new_contracts_limit,
       p.exchange_index AS old_exchange_index, s.exchange_index AS new_exchange_index,
       p.extra AS old_extra, s.extra AS new_extra,
       {latest} AS event_at
FROM order_group_snapshots p
JOIN order_group_snapshots s
  ON s.account = p.account AND s.order_group_id = p.order_group_id AND s.valid_from = p.valid_to
WHERE p.end_reason = 'changed'
UNION ALL
SELECT s.account, s.order_group_id, s.valid_from, s.not_before, 'appeared', {_NEW}, {appeared}
FROM order_group_snapshots s
WHERE {_MAY_HAVE_APPEARED}
  AND NOT EXISTS (
      SELECT 1 FROM order_group_snapshots p
      WHERE p.account = s.account AND p.order_group_id = s.order_group_id
        AND p.valid_to = s.valid_from AND p.end_reason = 'changed')
UNION ALL
SELECT s.account, s.order_group_id, c.started_at, s.not_before, 'appeared', {_NEW}, {appeared}
FROM coverage c CROSS JOIN order_group_snapshots s
WHERE c.gap_started_at IS NULL
  AND s.account = c.account AND s.valid_from = c.started_at AND s.begin_reason = 'found'
UNION ALL
SELECT s.account, s.order_group_id, s.valid_to, s.last_seen_at, 'disappeared',
       s.is_auto_cancel_enabled, NULL, s.contracts_limit, NULL, s.exchange_index, NULL,
       s.extra, NULL, {disappeared}
FROM order_group_snapshots s
WHERE s.end_reason = 'removed'
"""


def _gaps() -> str:
    return f"""
SELECT account, gap_started_at AS gap_start, started_at AS gap_end,
       {_seconds("gap_started_at", "started_at")} AS seconds,
       gap_cause AS cause
FROM stream_coverage
WHERE gap_started_at IS NOT NULL
"""


def _end(value: str, *, whose: str, happened_at: str, heard_at: str) -> str:
    """Return what ended a trigger: the next reset or deletion that was heard, or that a poll saw.

    Args:
        value: `at` for the time, or `what` for the cause.
        whose: the alias of the row with the account and the group.
        happened_at: the trigger's time, by the exchange's clock if it is known.
        heard_at: the time when the trigger was heard or seen, by this machine's clock.
    """
    same = f"x.account = {whose}.account AND x.order_group_id = {whose}.order_group_id"
    return f"""
(SELECT ends.{value} FROM (
    SELECT * FROM (
        SELECT x.occurred_at AS at, x.event_type AS what, x.received_at AS until
        FROM order_group_events x
        WHERE {same} AND x.event_type IN ('reset', 'deleted') AND x.occurred_at >= {happened_at}
          AND (x.occurred_at > {happened_at} OR x.received_at > {heard_at})
        ORDER BY x.occurred_at, x.received_at LIMIT 1) heard
    UNION ALL
    SELECT x.valid_to, 'deleted', {_shifted("x.valid_to", _EVENT_LAG)}
    FROM order_group_snapshots x
    WHERE {same} AND x.end_reason = 'removed' AND x.valid_to > {heard_at}
    UNION ALL
    SELECT x.valid_to, 'reset', {_shifted("x.valid_to", _EVENT_LAG)}
    FROM order_group_snapshots x
    JOIN order_group_snapshots y
      ON y.account = x.account AND y.order_group_id = x.order_group_id AND y.valid_from = x.valid_to
    WHERE {same} AND x.end_reason = 'changed' AND x.is_auto_cancel_enabled
      AND NOT y.is_auto_cancel_enabled AND x.last_seen_at >= {heard_at}
) ends ORDER BY ends.until LIMIT 1)
"""


def _limit(*, whose: str, happened_at: str, heard_at: str) -> str:
    """Return the limit in force at a trigger: what was heard last, or else what polls saw."""
    return f"""
COALESCE(
    (SELECT l.contracts_limit FROM order_group_events l
     WHERE l.account = {whose}.account AND l.order_group_id = {whose}.order_group_id
       AND l.event_type IN ('created', 'limit_updated') AND l.contracts_limit IS NOT NULL
       AND l.occurred_at <= {happened_at}
       AND NOT EXISTS (
           SELECT 1 FROM order_group_snapshots z
           WHERE z.account = l.account AND z.order_group_id = l.order_group_id
             AND z.valid_from > l.received_at AND z.valid_from <= {heard_at})
     ORDER BY l.occurred_at DESC, l.received_at DESC LIMIT 1),
    (SELECT z.contracts_limit FROM order_group_snapshots z
     WHERE z.account = {whose}.account AND z.order_group_id = {whose}.order_group_id
       AND z.valid_from <= {heard_at} AND (z.valid_to IS NULL OR z.valid_to > {heard_at}))
)
"""


def _triggers() -> str:
    """Return the view of triggers: those of events, and those that only the flag shows."""
    heard = {"whose": "t", "heard_at": "t.received_at"}
    dated = heard | {"happened_at": "t.event_at"}
    undated = heard | {"happened_at": "t.received_at"}
    seen = {"whose": "p", "happened_at": "p.valid_to", "heard_at": "p.valid_to"}
    return f"""
SELECT t.account, t.order_group_id, t.event_at AS triggered_at,
       {_null("timestamptz")} AS not_before,
       {_end("at", **dated)} AS ended_at, {_end("what", **dated)} AS ended_by,
       {_limit(**dated)} AS contracts_limit, 'event' AS evidence
FROM order_group_events t
WHERE t.event_type = 'triggered' AND t.event_at IS NOT NULL
UNION ALL
SELECT t.account, t.order_group_id, t.received_at,
       (SELECT MAX(l.started_at) FROM stream_coverage l
        WHERE l.account = t.account AND l.started_at <= t.received_at),
       {_end("at", **undated)}, {_end("what", **undated)}, {_limit(**undated)}, 'event'
FROM order_group_events t
WHERE t.event_type = 'triggered' AND t.event_at IS NULL
UNION ALL
SELECT p.account, p.order_group_id, p.valid_to, s.not_before,
       {_end("at", **seen)}, {_end("what", **seen)}, {_limit(**seen)}, 'flag'
FROM order_group_snapshots p
{_join_next()}
WHERE p.end_reason = 'changed' AND NOT p.is_auto_cancel_enabled AND s.is_auto_cancel_enabled
  AND {_explaining_flag("e.occurred_at")} IS NULL
"""


def _join_next() -> str:
    """Return the join of the state `s` that follows `p`."""
    names = ("account", "order_group_id", "valid_from")
    of_p = ("account", "order_group_id", "valid_to")
    same = " AND ".join(f"n.{name} = p.{other}" for name, other in zip(names, of_p, strict=True))
    if not _on_postgres():
        return f"JOIN order_group_snapshots s ON {same.replace('n.', 's.')}"
    # LATERAL forces a look-up per row: Postgres overestimates the rows and would scan the table.
    return f"CROSS JOIN LATERAL (SELECT * FROM order_group_snapshots n WHERE {same} LIMIT 1) s"


def _null(kind: str) -> str:
    return f"CAST(NULL AS {kind})" if _on_postgres() else "NULL"
