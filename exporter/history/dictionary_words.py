"""Descriptions that several tables and views of the dictionary share."""

from exporter.causes import POLL_GAP_CAUSES, STREAM_GAP_CAUSES

KALSHI = "Kalshi's response"
CLOCK = "this machine's clock"
POLL = "a poll: when its response had arrived, or its id"
STREAM = "the exchange's stream"
EXPORTER = "the exporter"
VIEW = "the view, from the tables"

UTC = "UTC instant"

Columns = dict[str, tuple[str, str, str]]
"""By the column's name: meaning, unit, source. A "?" after the name means that it may be null."""

WHOSE: Columns = {
    "account": ("The account's name.", "", "the configuration"),
    "order_group_id": ("The order group's id, unique within its account.", "", KALSHI),
}

FIELDS = {
    "is_auto_cancel_enabled": (
        "As sent; true very likely says that the group is triggered, false that it is not",
        "",
    ),
    "contracts_limit": ("Contracts that may match in 15 seconds", "contracts, exact decimal"),
    "exchange_index": ("The exchange's shard that holds the group", ""),
    "extra": ("Fields that this version does not know", "JSON object"),
}

STATE: Columns = {
    "is_auto_cancel_enabled": (f"{FIELDS['is_auto_cancel_enabled'][0]}.", "", KALSHI),
    "contracts_limit?": (
        "Contracts that may match in 15 seconds; null if not sent.",
        "contracts, exact decimal (text on SQLite)",
        KALSHI,
    ),
    "exchange_index?": (f"{FIELDS['exchange_index'][0]}; null if not sent.", "", KALSHI),
    "extra?": (f"{FIELDS['extra'][0]}; null if none.", "JSON object", KALSHI),
}

NOT_BEFORE = "The last poll before it; null if the account's first observation found it."

MISSING = (
    "The first poll that missed the group, while its removal is not confirmed; null otherwise."
)

VALID: Columns = {
    "valid_from": ("The first poll that saw this state.", UTC, POLL),
    "valid_to?": ("The first poll that did not see it; null while the state is open.", UTC, POLL),
}

CAUSE = "How most polls inside the gap ended, or why there were none: " + "; ".join(
    f"`{cause}`: {sentence}" for cause, sentence in POLL_GAP_CAUSES.items()
)

OUTCOME = (
    "`ok`, `unauthorized`, `rejected`, `rate_limited`, `server_error`, `unreachable`, `timeout`,"
    " `invalid_response`, or `superseded` if another exporter wrote first."
)

STREAM_CAUSE = "What ended the stretch before it: " + "; ".join(
    f"`{cause}`: {sentence}" for cause, sentence in STREAM_GAP_CAUSES.items()
)

EVENT: Columns = {
    **WHOSE,
    "occurred_at": ("event_at, or received_at if the exchange sent none.", UTC, STREAM),
    "identity": (
        "Its count among equal events without a time, its limit, a hash of extra, and its type.",
        "",
        EXPORTER,
    ),
    "event_type": (
        "`created`, `triggered`, `reset`, `deleted`, `limit_updated`, or whatever was sent.",
        "",
        STREAM,
    ),
    "event_at?": ("When it happened, to the millisecond; null if not sent.", UTC, STREAM),
    "contracts_limit?": (
        "The limit that it set; null if not sent.",
        "contracts, exact decimal (text on SQLite)",
        STREAM,
    ),
    "received_at": ("When the exporter that recorded it heard it.", UTC, CLOCK),
    "extra?": (f"{FIELDS['extra'][0]}; null if none.", "JSON object", STREAM),
}

BEGAN = (
    "`changed`, `appeared`, or `found` by the account's first observation; null for states from"
    " before this column (schema 0007)."
)

ENDED = "`changed` or `removed`; null while the state is open."


def old_and_new() -> Columns:
    """Return the columns of a change: each field of a group before and after it."""
    columns: Columns = {}
    for name, (meaning, unit) in FIELDS.items():
        what = meaning[0].lower() + meaning[1:]
        columns[f"old_{name}?"] = (f"Before the change: {what}; null if it appeared.", unit, VIEW)
        columns[f"new_{name}?"] = (f"After the change: {what}; null if it disappeared.", unit, VIEW)
    return columns
