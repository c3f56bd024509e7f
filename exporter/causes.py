"""Why an account was not observed, or its events not heard: the only list of causes.

Tables, views, exports, the dictionary, the report and its script all use these words. This module
imports nothing but typing, so that everything may import it.
"""

from typing import Final, Literal, TypeAlias

FailedOutcome: TypeAlias = Literal[
    "unauthorized",
    "rejected",
    "rate_limited",
    "server_error",
    "unreachable",
    "timeout",
    "invalid_response",
    "superseded",
]
"""How a poll can fail. "superseded": the response was valid, but another exporter was faster."""

PollGapCause: TypeAlias = Literal["not_running", "not_kept", FailedOutcome]
"""The cause of a gap in the coverage of polls: the outcome that most polls inside it had, or
`not_running` if there were none, or `not_kept`."""

StreamGapCause: TypeAlias = Literal[
    "not_listening",
    "disconnected",
    "unauthorized",
    "rejected",
    "unreachable",
    "lost_messages",
    "overflow",
    "invalid_message",
    "not_kept",
]
"""The cause of a gap in the coverage of the stream: what ended the stretch before it."""

POLL_GAP_CAUSES: Final[dict[PollGapCause, str]] = {
    "not_running": "the exporter was not running",
    "not_kept": "neither the database nor the spool could keep what polls saw",
    "unauthorized": "the exchange refused the key",
    "rejected": "the exchange refused the request",
    "rate_limited": "the exchange asked for fewer requests",
    "server_error": "the exchange failed",
    "unreachable": "the exchange could not be reached",
    "timeout": "the exchange was too slow",
    "invalid_response": "the exchange's response was not valid",
    "superseded": "another exporter was faster",
}
"""What each cause of a gap between polls means, for people."""

STREAM_GAP_CAUSES: Final[dict[StreamGapCause, str]] = {
    "not_listening": "no exporter was listening",
    "disconnected": "the connection was lost, or the exchange ended the subscription",
    "unauthorized": "the exchange refused the key",
    "rejected": "the exchange refused the connection or the subscription",
    "unreachable": "the exchange could not be reached",
    "lost_messages": "the sequence numbers show that messages were lost",
    "overflow": "events came faster than they were read, and the exchange dropped some",
    "invalid_message": "a message could not be understood",
    "not_kept": "neither the database nor the spool could keep the events",
}
"""What each cause of a gap in the stream means, for people."""

NOT_RUNNING: Final = "not_running"
"""The cause of a gap inside which no poll is recorded."""

NOT_LISTENING: Final = "not_listening"
"""The cause of a gap in the stream if no exporter said why it stopped listening."""

NOT_KEPT: Final = "not_kept"
"""The cause of a gap whose polls or events neither the database nor the spool could keep."""


def explain(cause: str) -> str:
    """Return the sentence for people, followed by the identifier that the tables hold.

    Args:
        cause: of a gap, in polls or in the stream. A cause that both have means the same in both.
    """
    for known, sentence in (*POLL_GAP_CAUSES.items(), *STREAM_GAP_CAUSES.items()):
        if known == cause:
            return f"{sentence} ({cause})"
    return cause
