"""One subscription to `order_group_updates` without a socket: messages in, typed outputs out.

Conclusions are strict, but the form of messages is not: the stretch of coverage continues only as
long as every message is understood and none is missing, while unknown messages, fields and event
types do no harm. `stream_connection` passes the messages in.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeAlias

from exporter.causes import StreamGapCause
from exporter.errors import InvalidResponseError
from exporter.kalshi.stream_messages import (
    CHANNEL,
    ErrorMessage,
    EventMessage,
    OtherMessage,
    SubscribedMessage,
    decode,
)
from exporter.model import OrderGroupEvent

_SUBSCRIBE_ID = 1

_UNAUTHORIZED = 9
_CHANNEL_ERROR = 10
_BUFFER_OVERFLOW = 25


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The exchange acknowledged the subscription: it sends every event from here on."""

    sid: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message without an event of this subscription; `reason` is one harmless line."""

    reason: str


@dataclass(frozen=True, slots=True)
class SequenceGap:
    """A gap in the sequence numbers: messages were lost, or came in another order.

    Attributes:
        expected, received: sequence numbers.
        intact_until: the instant up to which the messages prove that no event is missing, UTC.
        event: the one in the message that revealed the gap, if any: it was heard, but lies outside
            of any stretch.
    """

    cause: ClassVar[StreamGapCause] = "lost_messages"
    expected: int
    received: int
    intact_until: datetime
    event: OrderGroupEvent | None

    @property
    def reason(self) -> str:
        """One line for the operator."""
        return f"messages were lost: expected number {self.expected}, got {self.received}"


@dataclass(frozen=True, slots=True)
class ChannelError:
    """The exchange refused or ended the subscription.

    Attributes:
        code: of the error; None if it named none, or if it sent "unsubscribed" without an error.
        text: the exchange's own, harmless and bounded.
        intact_until: as in `SequenceGap` if the error says that events were dropped, else None.
    """

    cause: StreamGapCause
    code: int | None
    text: str
    intact_until: datetime | None = None

    @property
    def reason(self) -> str:
        """One line for the operator."""
        verb = "refused" if self.cause in {"rejected", "unauthorized"} else "ended"
        code = "" if self.code is None else f" with error {self.code}"
        text = f": {self.text}" if self.text else ""
        return f"the exchange {verb} the subscription{code}{text}"


@dataclass(frozen=True, slots=True)
class InvalidMessage:
    """A message that cannot be understood and might have been an event; `reason` says why."""

    cause: ClassVar[StreamGapCause] = "invalid_message"
    reason: str


End: TypeAlias = SequenceGap | ChannelError | InvalidMessage
"""The ends of a subscription: each has a `cause` and a `reason`, and no output follows it."""

Output: TypeAlias = Subscribed | OrderGroupEvent | Ignored | End


class StreamProtocol:
    """One subscription on one connection.

    Attributes:
        subscribed: whether the exchange has acknowledged the subscription, and not ended it.
        end: what ended it; None while it lasts.
    """

    def __init__(self) -> None:
        self.subscribed = False
        self.end: End | None = None
        self._sid: int | None = None
        self._seq: int | None = None
        self._intact_until: datetime | None = None

    def subscribe(self) -> str:
        """Return the message that asks for the subscription, to be sent once."""
        return f'{{"id":{_SUBSCRIBE_ID},"cmd":"subscribe","params":{{"channels":["{CHANNEL}"]}}}}'

    def receive(self, message: bytes, received_at: datetime, at: datetime | None = None) -> Output:
        """Take one message and return what it means; never raises.

        Args:
            message: as received: JSON, or anything else.
            received_at: UTC, not before that of the message before it; goes into the event.
            at: the same instant by the clock that dates what is intact; None if by the same clock.

        Returns:
            After an `End`, that one again.
        """
        if self.end is not None:
            return self.end
        try:
            output = self._receive(message, received_at, at or received_at)
        except InvalidResponseError as error:
            output = InvalidMessage(error.reason)
        if isinstance(output, SequenceGap | ChannelError | InvalidMessage):
            self.subscribed = False
            self.end = output
        return output

    def _receive(self, message: bytes, received_at: datetime, at: datetime) -> Output:
        decoded = decode(message, received_at)
        if isinstance(decoded, EventMessage):
            return self._in_sequence(decoded.sid, decoded.seq, decoded.event, at)
        match decoded:
            case SubscribedMessage():
                return self._acknowledged(decoded, at)
            case ErrorMessage():
                end = self._end_by_error(decoded)
                ignored = Ignored(f"error {decoded.code}: {decoded.text}")
                is_answer = True
            case OtherMessage():
                end = self._end_by_other(decoded)
                ignored = Ignored(f"a message of type {decoded.type}")
                is_answer = decoded.type in {"ok", "unsubscribed"}
        # A reply may leave out the subscription, because there is only one.
        sid = self._sid if decoded.sid is None and is_answer else decoded.sid
        if end is not None and (sid == self._sid or not self.subscribed):
            return end
        if sid is None or decoded.seq is None:
            return ignored
        # Every message on a subscription takes a number of its sequence.
        return self._in_sequence(sid, decoded.seq, ignored, at)

    def _acknowledged(self, message: SubscribedMessage, at: datetime) -> Output:
        if self.subscribed or message.channel not in {CHANNEL, None} or not _is_ours(message.id):
            return Ignored("an acknowledgement of another subscription")
        self.subscribed = True
        self._sid = message.sid
        self._intact_until = at
        return Subscribed(message.sid)

    def _end_by_error(self, message: ErrorMessage) -> ChannelError | None:
        """Return the end that an error of this subscription means, or None."""
        if not _is_ours(message.id):
            return None
        cause: StreamGapCause
        intact_until = None
        if message.code == _UNAUTHORIZED:
            cause = "unauthorized"
        elif not self.subscribed:
            cause = "rejected"
        elif message.code == _BUFFER_OVERFLOW:
            cause = "overflow"
            intact_until = self._intact_until
        elif message.code == _CHANNEL_ERROR:
            cause = "disconnected"
        else:
            return None
        return ChannelError(cause, message.code, message.text, intact_until)

    def _end_by_other(self, message: OtherMessage) -> ChannelError | None:
        if message.type == "unsubscribed" and self.subscribed:
            return ChannelError("disconnected", None, "unsubscribed")
        return None

    def _in_sequence(
        self, sid: int, seq: int, output: OrderGroupEvent | Ignored, at: datetime
    ) -> Output:
        """Return `output` if its message is the next of our subscription."""
        if sid != self._sid or self._intact_until is None:
            return Ignored(f"a message of subscription {sid}, which is not ours")
        event = output if isinstance(output, OrderGroupEvent) else None
        # The first number seen is the base.
        expected = seq if self._seq is None else self._seq + 1
        if seq != expected:
            return SequenceGap(expected, seq, self._intact_until, event)
        self._seq = seq
        # A later message may have been sent before this one arrived, but it reports nothing that
        # happened before the event in this one.
        happened_at = event.event_at if event and event.event_at else at
        self._intact_until = max(self._intact_until, min(happened_at, at))
        return output


def _is_ours(command: int | None) -> bool:
    """Return whether a reply is to this subscription's command, or to none."""
    return command in {None, 0, _SUBSCRIBE_ID}
