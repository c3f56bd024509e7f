"""What every table, view and column means: the one source of all that describes the database.

`described` brings it into the database, `schema` takes comments from it, and `docs/` shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from exporter.causes import POLL_GAP_CAUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is said of one column, or of a table or view itself.

    Attributes:
        object: the table or view.
        column: its column; "" for the table or view itself.
        meaning: in a sentence or two.
        unit: of the values; "" where there is nothing to say.
        nullable: whether it may be null; of a table or view false.
        source: where the values come from.
    """

    object: str
    column: str
    meaning: str
    unit: str
    nullable: bool
    source: str

    @property
    def comment(self) -> str:
        """All of it in one text, for Postgres and Datasette."""
        facts = [f"Unit: {self.unit}." if self.unit else "", f"From {self.source}."]
        return " ".join(filter(None, [self.meaning, *facts]))


KALSHI = "Kalshi's answer"
CLOCK = "this machine's clock"
POLL = "the instant at which a poll's answer had arrived, or the poll's id"
STREAM = "the exchange's stream"
EXPORTER = "the exporter"
VIEW = "the view, from the tables"

_UTC = "UTC instant"

# Each column: its name, then meaning, unit, source; "?" after the name: it may be null.
_Columns = dict[str, tuple[str, str, str]]

_WHOSE: _Columns = {
    "account": ("The account's name.", "", "the configuration"),
    "order_group_id": ("The order group's id, unique within its account.", "", KALSHI),
}

_FIELDS = {
    "is_auto_cancel_enabled": (
        "As sent; true very likely says that the group is triggered, false that it is not",
        "",
    ),
    "contracts_limit": ("Contracts that may match in 15 seconds", "contracts, exact decimal"),
    "exchange_index": ("The exchange's shard that holds the group", ""),
    "extra": ("Fields that this version does not know", "JSON object"),
}

_STATE: _Columns = {
    "is_auto_cancel_enabled": (f"{_FIELDS['is_auto_cancel_enabled'][0]}.", "", KALSHI),
    "contracts_limit?": (
        "Contracts that may match in 15 seconds; null if not sent.",
        "contracts, exact decimal (text on SQLite)",
        KALSHI,
    ),
    "exchange_index?": (f"{_FIELDS['exchange_index'][0]}; null if not sent.", "", KALSHI),
    "extra?": (f"{_FIELDS['extra'][0]}; null if none.", "JSON object", KALSHI),
}

_NOT_BEFORE = "The last poll before it came about; null if it was there when first looked at."

_MISSING = (
    "The first poll that missed the group, while its removal is not confirmed; null otherwise."
)

_VALID: _Columns = {
    "valid_from": ("The first poll that saw this state.", _UTC, POLL),
    "valid_to?": ("The first poll that saw otherwise; null while the state is open.", _UTC, POLL),
}

_CAUSE = "How most polls inside the gap ended, or why there were none: " + "; ".join(
    f"`{cause}`: {sentence}" for cause, sentence in POLL_GAP_CAUSES.items()
)

_OUTCOME = (
    "`ok`, `unauthorized`, `rejected`, `rate_limited`, `server_error`, `unreachable`, `timeout`,"
    " `invalid_response`, or `superseded` if another exporter had written meanwhile."
)

_STREAM_CAUSE = (
    "What ended the stretch before it; `not_listening` if nobody said, `not_kept` if events found"
    " room neither in the database nor in the spool, or their account could not be told."
)

_EVENT: _Columns = {
    **_WHOSE,
    "occurred_at": ("event_at, or received_at if the exchange sent none.", _UTC, STREAM),
    "identity": (
        "Its count among equal events of its instant, its limit, a hash of extra, and its type.",
        "",
        EXPORTER,
    ),
    "event_type": (
        "`created`, `triggered`, `reset`, `deleted`, `limit_updated`, or whatever was sent.",
        "",
        STREAM,
    ),
    "event_at?": ("When it happened, to the millisecond; null if not sent.", _UTC, STREAM),
    "contracts_limit?": (
        "The limit that it set; null if not sent.",
        "contracts, exact decimal (text on SQLite)",
        STREAM,
    ),
    "received_at": ("When the exporter that recorded it heard it.", _UTC, CLOCK),
    "extra?": (f"{_FIELDS['extra'][0]}; null if none.", "JSON object", STREAM),
}

_BEGAN = (
    "`changed`, `appeared`, or `found` if it was there when the account was first looked at; null"
    " for states from before this column (schema 0007)."
)

_ENDED = "`changed` or `removed`; null while the state is open."


def _old_and_new() -> _Columns:
    columns: _Columns = {}
    for name, (meaning, unit) in _FIELDS.items():
        what = meaning[0].lower() + meaning[1:]
        columns[f"old_{name}?"] = (f"Before the change: {what}; null if it appeared.", unit, VIEW)
        columns[f"new_{name}?"] = (f"After the change: {what}; null if it disappeared.", unit, VIEW)
    return columns


_OBJECTS: dict[str, tuple[str, _Columns]] = {
    "order_groups_current": (
        "View: the groups that stand as of each account's last observation, one row each.",
        {
            **_WHOSE,
            **_STATE,
            "first_seen_at": ("The first poll ever that saw the group.", _UTC, VIEW),
            "last_seen_at": ("The last poll that saw the group in this state.", _UTC, VIEW),
            "last_changed_at": ("The first poll that saw the group in this state.", _UTC, VIEW),
            "missing_since?": (_MISSING, _UTC, POLL),
        },
    ),
    "order_group_history": (
        "View: every state that was seen of every group, one row each.",
        {
            **_WHOSE,
            **_VALID,
            **_STATE,
            "not_before?": (_NOT_BEFORE, _UTC, POLL),
            "missing_since?": (_MISSING, _UTC, POLL),
            "last_seen_at": ("The last poll that saw this state.", _UTC, VIEW),
            "end_reason?": (_ENDED, "", EXPORTER),
            "duration_seconds": (
                "From valid_from to valid_to, or else to the account's last observation.",
                "seconds",
                VIEW,
            ),
            "first_poll_id": ("The poll at valid_from; it may have been pruned.", "polls.id", POLL),
            "last_poll_id": (
                "The poll at last_seen_at; it may have been pruned.",
                "polls.id",
                VIEW,
            ),
        },
    ),
    "order_group_changes": (
        "View: what changed, one row for each appearance, change and disappearance of a group.",
        {
            **_WHOSE,
            "changed_at": ("The poll that saw the change.", _UTC, POLL),
            "not_before?": (_NOT_BEFORE, _UTC, POLL),
            "change": ("`appeared`, `changed` or `disappeared`.", "", VIEW),
            **_old_and_new(),
            "event_at?": (
                "When the event happened that explains the change; null if none was heard.",
                _UTC,
                STREAM,
            ),
        },
    ),
    "order_group_triggers": (
        "View: every trigger of a group that was heard or seen, one row each.",
        {
            **_WHOSE,
            "triggered_at": (
                "When it happened; with the evidence `flag`, the poll that saw it.",
                _UTC,
                VIEW,
            ),
            "not_before?": (
                "The last instant at which it had not happened; null if triggered_at is exact.",
                _UTC,
                VIEW,
            ),
            "ended_at?": (
                "When it was reset or deleted, or the first poll that saw so; null if neither.",
                _UTC,
                VIEW,
            ),
            "ended_by?": ("`reset` or `deleted`; null while nothing ended it.", "", VIEW),
            "contracts_limit?": (
                "The limit in force when it was triggered; null if unknown.",
                "contracts, exact decimal (text on SQLite)",
                VIEW,
            ),
            "evidence": (
                "`event` if it was heard; `flag` if only a flag that went to true shows it.",
                "",
                VIEW,
            ),
        },
    ),
    "coverage_gaps": (
        "View: when an account was not observed between two observations, one row for each gap.",
        {
            "account": _WHOSE["account"],
            "gap_start": ("The last observation before the gap.", _UTC, POLL),
            "gap_end": ("The first observation after the gap.", _UTC, POLL),
            "seconds": ("How long the gap lasted.", "seconds", VIEW),
            "cause": (f"{_CAUSE}.", "", EXPORTER),
        },
    ),
    "stream_gaps": (
        "View: when nobody heard an account's events between two stretches, one row for each gap.",
        {
            "account": _WHOSE["account"],
            "gap_start": ("The last instant of the stretch before the gap.", _UTC, EXPORTER),
            "gap_end": ("The first instant of the stretch after the gap.", _UTC, EXPORTER),
            "seconds": ("How long the gap lasted.", "seconds", VIEW),
            "cause": (_STREAM_CAUSE, "", EXPORTER),
        },
    ),
    "order_group_snapshots": (
        "One row for each state of each group: open until a poll sees another.",
        {
            **_WHOSE,
            **_VALID,
            **_STATE,
            "begin_reason?": (_BEGAN, "", EXPORTER),
            "not_before?": (_NOT_BEFORE, _UTC, POLL),
            "missing_since?": (_MISSING, _UTC, POLL),
            "last_seen_at?": (
                "The last poll that saw this state; null while it is the account's last.",
                _UTC,
                POLL,
            ),
            "end_reason?": (_ENDED, "", EXPORTER),
            "first_poll_id": ("The poll at valid_from; it may have been pruned.", "polls.id", POLL),
            "last_poll_id?": ("The poll at last_seen_at; null like that.", "polls.id", POLL),
        },
    ),
    "polls": (
        "One row for each attempt to observe an account, whatever came of it.",
        {
            "id": ("Counts up; never used again.", "", EXPORTER),
            "account": _WHOSE["account"],
            "started_at": ("When the poll began.", _UTC, CLOCK),
            "finished_at": ("When the poll ended, waits between attempts included.", _UTC, CLOCK),
            "observed_at?": (
                "When the last byte of the answer arrived; null unless outcome is `ok`.",
                _UTC,
                CLOCK,
            ),
            "outcome": (
                _OUTCOME,
                "",
                EXPORTER,
            ),
            "http_status?": ("Of the last response; null if none came.", "HTTP status", KALSHI),
            "attempts": ("HTTP requests that were sent.", "requests", EXPORTER),
            "error_code?": (
                "Why it failed, in the exchange's words; null if not said.",
                "",
                KALSHI,
            ),
            "error_message?": ("The same as a sentence, bounded.", "", KALSHI),
            "error_details?": ("The same in detail, bounded.", "", KALSHI),
            "error_service?": (
                "The exchange's service that refused; null if not said.",
                "",
                KALSHI,
            ),
            "clock_skew_ms?": (
                "This machine's clock minus the exchange's, to half a second; null if unknown.",
                "milliseconds",
                "the Date header",
            ),
            "group_count?": ("Groups that were seen; null unless `ok`.", "groups", KALSHI),
            "added?": ("Groups that appeared; null unless `ok`.", "groups", EXPORTER),
            "changed?": ("Groups whose state changed; null unless `ok`.", "groups", EXPORTER),
            "removed?": ("Groups found removed; null unless `ok`.", "groups", EXPORTER),
            "exporter_version": ("The version that wrote the row.", "", EXPORTER),
        },
    ),
    "coverage": (
        "One row for each unbroken stretch of successful polls of an account.",
        {
            "account": _WHOSE["account"],
            "started_at": ("The first observation of the stretch.", _UTC, POLL),
            "ended_at": ("The last observation of the stretch.", _UTC, POLL),
            "polls": ("Successful polls in the stretch.", "polls", EXPORTER),
            "gap_started_at?": ("Where the gap before it began; null for the first.", _UTC, POLL),
            "gap_cause?": ("That gap's cause; null for an account's first stretch.", "", EXPORTER),
        },
    ),
    "order_group_events": (
        "One row for each event that the exchange sent, whoever heard it first.",
        _EVENT,
    ),
    "stream_coverage": (
        "One row for each unbroken stretch in which every event of an account was heard.",
        {
            "account": _WHOSE["account"],
            "started_at": ("Every event from here on was heard.", _UTC, CLOCK),
            "ended_at": ("Every event up to here was heard and is recorded.", _UTC, CLOCK),
            "events": ("Events that were recorded with it.", "events", EXPORTER),
            "last_event_at?": ("When the latest event was heard; null if none was.", _UTC, CLOCK),
            "gap_started_at?": ("Where the gap before it began; null for the first.", _UTC, CLOCK),
            "gap_cause?": ("That gap's cause; null for an account's first stretch.", "", EXPORTER),
            "is_latest": ("Whether it is the account's latest stretch.", "", EXPORTER),
        },
    ),
    "undecided_events": (
        "The exporter's own: events of groups that may be another subaccount's.",
        _EVENT,
    ),
    "groups_of_others": (
        "The exporter's own: groups that polls have shown to be another subaccount's.",
        _WHOSE,
    ),
    "accounts": (
        "The exporter's own: the head of each account's history, which a poll compares and swaps.",
        {
            "account": _WHOSE["account"],
            "version": ("Counts the account's observations.", "observations", EXPORTER),
            "observed_at?": ("The last observation; null before the first.", _UTC, POLL),
            "last_poll_id?": ("The poll that made it; null before the first.", "polls.id", POLL),
            "digest?": (
                "Of the last answer, if equal bytes mean no change; else null.",
                "",
                EXPORTER,
            ),
            "group_count?": ("Groups at the last observation; null before it.", "groups", KALSHI),
            "coverage_started_at?": ("Where the latest stretch began; null if none.", _UTC, POLL),
            "failed_polls": ("Failed polls since the last observation.", "polls", EXPORTER),
            "refused_polls": ("Polls in a row, to the last, that were refused.", "polls", EXPORTER),
            "polled_at?": ("When a poll last began; null before the first.", _UTC, CLOCK),
            "claimed_by?": ("The exporter that polls at present; null if none.", "", EXPORTER),
            "claimed_until?": ("When its claim ends by itself; null if none.", _UTC, EXPORTER),
            "cooldown_until?": (
                "The end of the pause that the exchange last asked for; null if it asked for none.",
                _UTC,
                EXPORTER,
            ),
            "stream_end_cause?": (
                "Why listening ended last; null if nobody said.",
                "",
                EXPORTER,
            ),
            "stream_ended_at?": ("When it ended; null like that.", _UTC, EXPORTER),
            "exchange?": (
                "`predictions` or `margin`, whence the history comes; null until it is known.",
                "",
                EXPORTER,
            ),
        },
    ),
    "gap_outcomes": (
        "The exporter's own: how polls ended since each account's last observation.",
        {
            "account": _WHOSE["account"],
            "outcome": ("As in polls, or `not_kept`.", "", EXPORTER),
            "polls": ("How many ended so.", "polls", EXPORTER),
            "last_started_at": ("When the last of them began.", _UTC, CLOCK),
        },
    ),
    "data_dictionary": (
        "This description: one row for each table, view and column.",
        {
            "object_name": ("The table or view.", "", EXPORTER),
            "column_name": ("Its column; empty for the table or view itself.", "", EXPORTER),
            "meaning": ("What it means.", "", EXPORTER),
            "unit": ("Of the values; empty where there is nothing to say.", "", EXPORTER),
            "nullable": ("Whether it may be null.", "", EXPORTER),
            "source": ("Where the values come from.", "", EXPORTER),
        },
    ),
}


def lines(name: str) -> Iterator[Line]:
    """All that is said of one table or view: itself first, then its columns in their order."""
    meaning, columns = _OBJECTS[name]
    yield Line(object=name, column="", meaning=meaning, unit="", nullable=False, source=EXPORTER)
    for key, (what, unit, source) in columns.items():
        yield Line(
            object=name,
            column=key.rstrip("?"),
            meaning=what,
            unit=unit,
            nullable=key.endswith("?"),
            source=source,
        )


OBJECTS = tuple(_OBJECTS)
"""All tables and views, those that are made for reading first."""
