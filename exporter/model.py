"""The values that travel between the API's side and the database's side."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from exporter.causes import StreamGapCause
from exporter.errors import Outcome

MAX_ID_LENGTH = 256
"""The most characters that a group's id may have."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that both databases can hold."""

COVERAGE_INTERVALS = 2.5
"""A poll extends a stretch of coverage if it comes within this many intervals of its end."""


class OrderGroup(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True
):
    """The state of one order group, as one response gave it.

    The garbage collector does not track these structs, because an account may have 100,000 of
    them; they hold only plain values, so no cycle can arise. `exporter.kalshi.decode` makes them
    straight from a response, whose field names they use.

    Attributes:
        id: 1 to 256 characters, none of them a control character.
        is_auto_cancel_enabled: as sent; true very likely says that the group is triggered.
        contracts_limit: contracts that may match in 15 seconds, exact: a plain decimal with at
            least two decimals and no more than it needs, so that equal limits are equal texts;
            None if not sent.
        exchange_index: the exchange's shard; None if not sent.
        extra: the fields that this version does not know, as one JSON object in ASCII with sorted
            keys and numbers as sent; None if there were none.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    is_auto_cancel_enabled: bool
    contracts_limit: str | None = msgspec.field(default=None, name="contracts_limit_fp")
    exchange_index: Int64 | None = None
    # The name holds a control character, so no field that is decoded straight can have it.
    extra: str | None = msgspec.field(default=None, name="\x7fextra")


class OrderGroupEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of an order group, as the exchange's channel `order_group_updates` sent it.

    An event names no account: a connection belongs to a key and an exchange, and several accounts
    may share one. It holds nothing about its delivery either, such as the sequence number or the
    time of sending: two connections that hear the same event give equal values, except for
    `received_at`.

    The garbage collector does not track these structs, because a burst may have 100,000 of them.

    Attributes:
        order_group_id: 1 to 256 characters, none of them a control character.
        event_type: "created", "triggered", "reset", "deleted", "limit_updated" or whatever was
            sent, under the same rule as an id.
        event_at: the matching engine's time, UTC, to the millisecond; None if not sent.
        contracts_limit: exact, in the same form as an `OrderGroup`'s; None if not sent.
        received_at: when this process had read the message, UTC.
        extra: the fields of the event that this version does not know, in the same form as an
            `OrderGroup`'s; None if there were none.
        occurrence: 1, 2, … The exchange may send equal events without `event_at`. `Occurrences`
            numbers them on each connection to tell them apart. Always 1 with `event_at`.
    """

    order_group_id: str
    event_type: str
    event_at: datetime | None = None
    contracts_limit: str | None = None
    received_at: datetime
    extra: str | None = None
    occurrence: int = 1


class StreamBatch(msgspec.Struct, frozen=True, kw_only=True):
    """All that one connection heard for one account since its previous batch.

    A batch is written whole or not at all, and a connection's batches are written, or spooled, in
    their order. A batch that neither the database nor the spool could keep ends the connection's
    span: the `since` of later batches must lie after everything that it held.

    Attributes:
        account: whose history it belongs to.
        own_groups_only: whether the connection hears groups of other subaccounts too, so that only
            events of groups that the account's polls see are the account's.
        since: where the connection's unbroken span begins, UTC; the same in all of its batches.
            None to claim no span, as for a connection that could not be made.
        until: the last instant, UTC, up to which no event of the span is missing, this batch
            included. This is not the arrival of the last message, but an instant at which the
            exchange had certainly sent everything earlier, such as the sending of a ping that has
            been answered. With `cause`, where the span ended.
        events: those heard since the previous batch, in the order in which they came.
        cause: why listening ended, or could not begin; None while it goes on.
        claimed_until: how far earlier batches of the span claimed, if that was too far, because a
            message turns out to have been lost: what lies after `until` is taken back. Else None.
    """

    account: str
    own_groups_only: bool
    since: datetime | None
    until: datetime
    events: tuple[OrderGroupEvent, ...] = ()
    cause: StreamGapCause | None = None
    claimed_until: datetime | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The complete, valid set of order groups that a successful poll saw.

    Attributes:
        observed_at: when the last byte arrived, UTC.
        digest: of the response's bytes and of the version of the decoder. Two observations of an
            account with the same digest hold the same groups.
        groups: by id; None if the response was not decoded, because its digest equals the one
            that the caller already knew.
    """

    observed_at: datetime
    digest: str
    groups: Mapping[str, OrderGroup] | None


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to observe all order groups of an account: one row of `polls`.

    Attributes:
        started_at, finished_at: UTC; waits between attempts lie in between.
        outcome: "ok" if and only if there is an observation.
        attempts: HTTP requests sent, over all pages.
        clock_skew_ms: this machine's clock minus the exchange's, to about half a second.
        error_code, error_message, error_details, error_service: sanitized and bounded texts; None
            if the poll succeeded.
    """

    account: str
    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    attempts: int
    http_status: int | None = None
    clock_skew_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_details: str | None = None
    error_service: str | None = None
    observation: Observation | None = None
