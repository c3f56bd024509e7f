"""The tables, as SQLAlchemy knows them; `migrations/` makes them and their views, `store` writes.

Each index names the question that it answers. Views are in the migrations alone: they are read by
people, and by `exporter.reading` through their names.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

from exporter.history.types import ExactDecimal, Instant, to_text

REVISION = "0011"
"""The newest revision in `migrations/versions/`: the schema that this version reads and writes."""


_BigSerial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up INTEGER keys only

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    # The head: a poll that succeeds advances it from the version that it read, or writes nothing.
    Column("version", BigInteger, nullable=False),
    Column("observed_at", Instant),
    Column("last_poll_id", BigInteger),
    Column("digest", Text),
    Column("group_count", Integer),
    Column("coverage_started_at", Instant),
    # Since the last observation.
    Column("failed_polls", Integer, nullable=False),
    # In a row, to the last poll.
    Column("refused_polls", Integer, nullable=False),
    # Who polls now: spares the exchange needless requests; correctness never rests on it.
    Column("polled_at", Instant),
    Column("claimed_by", Text),
    Column("claimed_until", Instant),
    # The end of the pause that the exchange last asked for.
    Column("cooldown_until", Instant),
    # Why listening ended last, and when: the cause of the gap that may come of it.
    Column("stream_end_cause", Text),
    Column("stream_ended_at", Instant),
    # Null until an exporter that knows it has started.
    Column("exchange", Text),
)

gap_outcomes = Table(
    # This table counts how the polls since each account's last observation ended, for the cause of
    # a possible gap. It does not rely on `polls`, which may be pruned before the gap ends.
    "gap_outcomes",
    metadata,
    Column("account", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("polls", Integer, nullable=False),
    Column("last_started_at", Instant, nullable=False),
)

polls = Table(
    "polls",
    metadata,
    Column("id", _BigSerial, primary_key=True, autoincrement=True),
    Column("account", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant, nullable=False),
    Column("observed_at", Instant),
    Column("outcome", Text, nullable=False),
    Column("http_status", Integer),
    Column("attempts", Integer, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_details", Text),
    Column("error_service", Text),
    Column("clock_skew_ms", BigInteger),
    Column("group_count", Integer),
    Column("added", Integer),
    Column("changed", Integer),
    Column("removed", Integer),
    Column("exporter_version", Text, nullable=False),
    # One account's polls in a time span, its newest poll, and whether a poll is recorded already.
    # On Postgres the key is that index: (account, started_at, id), see 0011.
    Index("polls_account_started_at", "account", "started_at").ddl_if(dialect="sqlite"),
    # Ids of pruned polls must never come again: snapshots name them.
    sqlite_autoincrement=True,
)

coverage = Table(
    "coverage",
    metadata,
    Column("account", Text, primary_key=True),
    Column("started_at", Instant, primary_key=True),
    Column("ended_at", Instant, nullable=False),
    Column("polls", BigInteger, nullable=False),
    # The gap before this stretch; null for an account's first.
    Column("gap_started_at", Instant),
    Column("gap_cause", Text),
    # The accounts that were first looked at in a time span.
    Index("coverage_first", "started_at", sqlite_where=text("gap_started_at IS NULL")),
)

order_group_snapshots = Table(
    "order_group_snapshots",
    metadata,
    Column("account", Text, primary_key=True),
    Column("order_group_id", Text, primary_key=True),
    Column("valid_from", Instant, primary_key=True),
    Column("is_auto_cancel_enabled", Boolean, nullable=False),
    Column("contracts_limit", ExactDecimal),
    Column("exchange_index", BigInteger),
    # JSON to the letter: never jsonb, which refuses \u0000. `snapshots` writes and reads it as
    # text: numbers such as 1e400 would not survive being decoded.
    Column("extra", JSON().with_variant(Text(), "sqlite")),
    # 'changed' if another state ended at `valid_from`, 'found' if the group was there when the
    # account was first looked at, else 'appeared'.
    Column("begin_reason", Text),
    # The last instant at which this state was not there yet; null if it was found.
    Column("not_before", Instant),
    Column("missing_since", Instant),
    Column("last_seen_at", Instant),
    Column("valid_to", Instant),
    Column("end_reason", Text),
    Column("first_poll_id", BigInteger, nullable=False),
    Column("last_poll_id", BigInteger),
    # At most one open snapshot a group; the current state of an account.
    Index(
        "order_group_snapshots_open",
        "account",
        "order_group_id",
        unique=True,
        sqlite_where=text("valid_to IS NULL"),
    ),
    # What appeared in a time span; on Postgres, what existed at an instant long ago. On SQLite it
    # holds only the states that no other index leads to; with all of them it would be a fifth of
    # the file (see 0007).
    Index(
        "order_group_snapshots_valid_from",
        "valid_from",
        sqlite_where=text("COALESCE(begin_reason, 'appeared') = 'appeared'"),
    ),
    # Which states changed or ended in a time span; with the index of open states, which existed at
    # an instant. On SQLite the index holds the whole key, so that the states of other instants are
    # not read (docs/queries.md).
    Index(
        "order_group_snapshots_valid_to",
        "valid_to",
        sqlite_where=text("valid_to IS NOT NULL"),
    ),
    # SQLite stores the rows in the index of the primary key: a group's states lie side by side.
    sqlite_with_rowid=False,
)


def _event_columns() -> list[Column[Any]]:
    return [
        Column("account", Text, primary_key=True),
        Column("order_group_id", Text, primary_key=True),
        # `event_at`, or `received_at` if the exchange sent none.
        Column("occurred_at", Instant, primary_key=True),
        # All else that the exchange said, so that an event is the same whoever heard it.
        Column("identity", Text, primary_key=True),
        Column("event_type", Text, nullable=False),
        Column("event_at", Instant),
        Column("contracts_limit", ExactDecimal),
        Column("received_at", Instant, nullable=False),
        Column("extra", JSON().with_variant(Text(), "sqlite")),
    ]


order_group_events = Table(
    "order_group_events",
    metadata,
    *_event_columns(),
    # What happened in a time span.
    Index("order_group_events_event_at", "event_at"),
    sqlite_with_rowid=False,
)

undecided_events = Table(
    # Of accounts with a subaccount: events of groups that may be another's.
    "undecided_events",
    metadata,
    *_event_columns(),
    # The account's last observation when the event was kept: a later one may decide.
    Column("kept_after", Instant),
    sqlite_with_rowid=False,
)

groups_of_others = Table(
    # Of accounts with a subaccount: groups that are known to be another's.
    "groups_of_others",
    metadata,
    Column("account", Text, primary_key=True),
    Column("order_group_id", Text, primary_key=True),
    sqlite_with_rowid=False,
)

stream_coverage = Table(
    "stream_coverage",
    metadata,
    Column("account", Text, primary_key=True),
    Column("started_at", Instant, primary_key=True),
    Column("ended_at", Instant, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("last_event_at", Instant),
    # The gap before this stretch; null for an account's first.
    Column("gap_started_at", Instant),
    Column("gap_cause", Text),
    # True of an account's last: the one that daemons extend, as a rule.
    Column("is_latest", Boolean, nullable=False),
    Index(
        "stream_coverage_latest",
        "account",
        unique=True,
        sqlite_where=text("is_latest"),
    ),
)

data_dictionary = Table(
    "data_dictionary",
    metadata,
    Column("object_name", Text, primary_key=True),
    Column("column_name", Text, primary_key=True),
    Column("meaning", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("nullable", Boolean, nullable=False),
    Column("source", Text, nullable=False),
)

__all__ = [
    "REVISION",
    "ExactDecimal",
    "Instant",
    "accounts",
    "coverage",
    "data_dictionary",
    "gap_outcomes",
    "groups_of_others",
    "metadata",
    "order_group_events",
    "order_group_snapshots",
    "polls",
    "stream_coverage",
    "to_text",
    "undecided_events",
]
