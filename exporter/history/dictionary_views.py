"""The descriptions of each view and its columns."""

from exporter.history.dictionary_words import (
    CAUSE,
    ENDED,
    EXPORTER,
    MISSING,
    NOT_BEFORE,
    POLL,
    STATE,
    STREAM,
    STREAM_CAUSE,
    UTC,
    VALID,
    VIEW,
    WHOSE,
    Columns,
    old_and_new,
)

VIEWS: dict[str, tuple[str, Columns]] = {
    "order_groups_current": (
        "View: the groups that exist as of each account's last observation, one row each.",
        {
            **WHOSE,
            **STATE,
            "first_seen_at": ("The first poll ever that saw the group.", UTC, VIEW),
            "last_seen_at": ("The last poll that saw the group in this state.", UTC, VIEW),
            "last_changed_at": ("The first poll that saw the group in this state.", UTC, VIEW),
            "missing_since?": (MISSING, UTC, POLL),
        },
    ),
    "order_group_history": (
        "View: every state that was seen of every group, one row each.",
        {
            **WHOSE,
            **VALID,
            **STATE,
            "not_before?": (NOT_BEFORE, UTC, POLL),
            "missing_since?": (MISSING, UTC, POLL),
            "last_seen_at": ("The last poll that saw this state.", UTC, VIEW),
            "end_reason?": (ENDED, "", EXPORTER),
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
            **WHOSE,
            "changed_at": ("The poll that saw the change.", UTC, POLL),
            "not_before?": (NOT_BEFORE, UTC, POLL),
            "change": ("`appeared`, `changed` or `disappeared`.", "", VIEW),
            **old_and_new(),
            "event_at?": (
                "When the event happened that explains the change; null if none was heard.",
                UTC,
                STREAM,
            ),
        },
    ),
    "order_group_triggers": (
        "View: every trigger of a group that was heard or seen, one row each.",
        {
            **WHOSE,
            "triggered_at": (
                "When it happened; with the evidence `flag`, the poll that saw it.",
                UTC,
                VIEW,
            ),
            "not_before?": (
                "The last instant at which it had not happened; null if triggered_at is exact.",
                UTC,
                VIEW,
            ),
            "ended_at?": (
                "When it was reset or deleted, or the first poll that saw that; null if neither.",
                UTC,
                VIEW,
            ),
            "ended_by?": ("`reset` or `deleted`; null while nothing ended it.", "", VIEW),
            "contracts_limit?": (
                "The limit in force when it was triggered; null if unknown.",
                "contracts, exact decimal (text on SQLite)",
                VIEW,
            ),
            "evidence": (
                "`event` if it was heard; `flag` if only a flag that became true shows it.",
                "",
                VIEW,
            ),
        },
    ),
    "coverage_gaps": (
        "View: when an account was not observed, one row for each gap between two stretches.",
        {
            "account": WHOSE["account"],
            "gap_start": ("The last observation before the gap.", UTC, POLL),
            "gap_end": ("The first observation after the gap.", UTC, POLL),
            "seconds": ("How long the gap lasted.", "seconds", VIEW),
            "cause": (f"{CAUSE}.", "", EXPORTER),
        },
    ),
    "stream_gaps": (
        "View: when an account's events were not heard, one row for each gap.",
        {
            "account": WHOSE["account"],
            "gap_start": ("The last instant of the stretch before the gap.", UTC, EXPORTER),
            "gap_end": ("The first instant of the stretch after the gap.", UTC, EXPORTER),
            "seconds": ("How long the gap lasted.", "seconds", VIEW),
            "cause": (f"{STREAM_CAUSE}.", "", EXPORTER),
        },
    ),
}
