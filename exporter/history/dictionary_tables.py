"""The descriptions of each table and its columns."""

from exporter.history.dictionary_words import (
    BEGAN,
    CLOCK,
    ENDED,
    EVENT,
    EXPORTER,
    KALSHI,
    MISSING,
    NOT_BEFORE,
    OUTCOME,
    POLL,
    STATE,
    UTC,
    VALID,
    WHOSE,
    Columns,
)

TABLES: dict[str, tuple[str, Columns]] = {
    "order_group_snapshots": (
        "One row for each state of each group: open until a poll sees another.",
        {
            **WHOSE,
            **VALID,
            **STATE,
            "begin_reason?": (BEGAN, "", EXPORTER),
            "not_before?": (NOT_BEFORE, UTC, POLL),
            "missing_since?": (MISSING, UTC, POLL),
            "last_seen_at?": (
                "The last poll that saw this state; null while it is the account's last.",
                UTC,
                POLL,
            ),
            "end_reason?": (ENDED, "", EXPORTER),
            "first_poll_id": ("The poll at valid_from; it may have been pruned.", "polls.id", POLL),
            "last_poll_id?": ("The poll at last_seen_at; null if that is.", "polls.id", POLL),
        },
    ),
    "polls": (
        "One row for each attempt to observe an account, whatever came of it.",
        {
            "id": ("Increases; never reused.", "", EXPORTER),
            "account": WHOSE["account"],
            "started_at": ("When the poll began.", UTC, CLOCK),
            "finished_at": ("When the poll ended, waits between attempts included.", UTC, CLOCK),
            "observed_at?": (
                "When the last byte of the response arrived; null unless outcome is `ok`.",
                UTC,
                CLOCK,
            ),
            "outcome": (
                OUTCOME,
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
            "account": WHOSE["account"],
            "started_at": ("The first observation of the stretch.", UTC, POLL),
            "ended_at": ("The last observation of the stretch.", UTC, POLL),
            "polls": ("Successful polls in the stretch.", "polls", EXPORTER),
            "gap_started_at?": ("Where the gap before it began; null for the first.", UTC, POLL),
            "gap_cause?": ("That gap's cause; null for an account's first stretch.", "", EXPORTER),
        },
    ),
    "order_group_events": (
        "One row for each event that the exchange sent, whoever heard it first.",
        EVENT,
    ),
    "stream_coverage": (
        "One row for each unbroken stretch in which every event of an account was heard.",
        {
            "account": WHOSE["account"],
            "started_at": ("Every event from here on was heard.", UTC, CLOCK),
            "ended_at": ("Every event up to here was heard and is recorded.", UTC, CLOCK),
            "events": ("Events that were recorded with it.", "events", EXPORTER),
            "last_event_at?": ("When the latest event was heard; null if none was.", UTC, CLOCK),
            "gap_started_at?": ("Where the gap before it began; null for the first.", UTC, CLOCK),
            "gap_cause?": ("That gap's cause; null for an account's first stretch.", "", EXPORTER),
            "is_latest": ("Whether it is the account's latest stretch.", "", EXPORTER),
        },
    ),
    "undecided_events": (
        "The exporter's own: events of groups that may be another subaccount's.",
        {
            **EVENT,
            "kept_after?": (
                "The account's last observation when it was kept, or the year 1; never left null.",
                UTC,
                POLL,
            ),
        },
    ),
    "groups_of_others": (
        "The exporter's own: groups that polls have shown to be another subaccount's.",
        WHOSE,
    ),
    "accounts": (
        "The exporter's own: the head of each account's history, which a poll compares and swaps.",
        {
            "account": WHOSE["account"],
            "version": ("Counts the account's observations.", "observations", EXPORTER),
            "observed_at?": ("The last observation; null before the first.", UTC, POLL),
            "last_poll_id?": ("The poll that made it; null before the first.", "polls.id", POLL),
            "digest?": (
                "Hash of the last response if equal bytes mean no change; else null.",
                "",
                EXPORTER,
            ),
            "group_count?": ("Groups at the last observation; null before it.", "groups", KALSHI),
            "coverage_started_at?": ("Where the latest stretch began; null if none.", UTC, POLL),
            "failed_polls": ("Failed polls since the last observation.", "polls", EXPORTER),
            "refused_polls": ("Polls in a row, to the last, that were refused.", "polls", EXPORTER),
            "polled_at?": ("When a poll last began; null before the first.", UTC, CLOCK),
            "claimed_by?": ("The exporter that polls at present; null if none.", "", EXPORTER),
            "claimed_until?": ("When its claim ends by itself; null if none.", UTC, EXPORTER),
            "cooldown_until?": (
                "The end of the pause that the exchange last asked for; null if it asked for none.",
                UTC,
                EXPORTER,
            ),
            "stream_end_cause?": (
                "Why listening ended last; null if that is unknown.",
                "",
                EXPORTER,
            ),
            "stream_ended_at?": (
                "When listening ended last; null if that is unknown.",
                UTC,
                EXPORTER,
            ),
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
            "account": WHOSE["account"],
            "outcome": ("As in polls, or `not_kept`.", "", EXPORTER),
            "polls": ("How many ended so.", "polls", EXPORTER),
            "last_started_at": ("When the last of them began.", UTC, CLOCK),
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
