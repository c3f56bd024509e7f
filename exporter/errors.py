"""Every error that this package raises on purpose: what it means, and its exit code.

The exit codes follow BSD's sysexits.h, so that cron, systemd and monitoring can tell "fix the
configuration" (78) from "the exchange is down" (69). This module imports nothing of the package
but the causes of gaps.
"""

import errno
from datetime import datetime
from enum import IntEnum
from typing import ClassVar, Literal, TypedDict, Unpack

from exporter.causes import FailedOutcome, StreamGapCause

Outcome = Literal["ok", FailedOutcome]
"""How a poll can end."""


class Exit(IntEnum):
    """What the process reports when it ends; with several accounts the highest wins."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    INVALID_RESPONSE = 65
    UNAVAILABLE = 69
    DATABASE = 74
    TEMPORARY = 75
    UNAUTHORIZED = 77
    CONFIGURATION = 78


class ExporterError(Exception):
    """A known kind of failure; its text is one line for the operator."""

    exit_code: ClassVar[Exit] = Exit.FAILURE


class ConfigurationError(ExporterError):
    """The configuration, a key or the environment is wrong, and only a person can mend it.

    Args:
        faults: one line each: where, what is wrong, what to do.
    """

    exit_code = Exit.CONFIGURATION

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class PrivateKeyError(ConfigurationError):
    """A private key cannot be used: missing, unreadable, too open, too weak or locked."""


class SchemaError(ConfigurationError):
    """The database's schema is not one that this version can use as it stands."""


class ExchangeChangedError(SchemaError):
    """An account's history comes from another exchange than the configuration names."""


class DatabaseError(ExporterError):
    """The database failed in a way that waiting mends: unreachable, locked, full, restarting.

    Its subclasses are the failures that waiting does not mend.
    """

    exit_code = Exit.DATABASE
    retryable: ClassVar[bool] = True
    until: ClassVar[str] = "until the database is back"
    """How long polls wait in the spool, for log lines."""


class DatabaseSetupError(DatabaseError):
    """The database refuses until a person mends something: a permission, a name, an option."""

    exit_code = Exit.CONFIGURATION
    retryable = False
    until = "until it is mended"


class DatabaseDamagedError(DatabaseError):
    """The database's file or index is damaged, and must be restored or repaired."""

    exit_code = Exit.CONFIGURATION
    retryable = False
    until = "until it is mended"


class PoisonPollError(DatabaseError):
    """The database refuses the content of a poll, and would refuse it at every attempt."""

    retryable = False
    until = "until the next poll, which tries once more"


class SpoolError(ExporterError):
    """An observation could be kept neither in the database nor in the spool."""

    exit_code = Exit.DATABASE


class DiskError(ExporterError):
    """A file that a command makes could not be written: the disk is full or failing."""

    exit_code = Exit.DATABASE


def cannot_write(path: object, error: OSError) -> ExporterError:
    """Return the error for a file that a command cannot make.

    Its exit code tells a disk that is full or failing from a path that a person has to correct.
    """
    text = f"cannot write {path}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
        return DiskError(text)
    return ConfigurationError(text)


class BusyError(ExporterError):
    """Another exporter is polling this account."""

    exit_code = Exit.TEMPORARY


class ErrorDetails(TypedDict, total=False):
    """What is known of a failure of the exchange beside the reason; all of it may be missing.

    Every text from the exchange is hostile until here: `code`, `details` and the rest hold no
    control characters and at most a few hundred characters each.

    Attributes:
        summary: the reason without what `code`, `message` and `details` say, for log lines, where
            these stand beside it; None if the reason says none of it.
        http_status: of the last response, if there was one.
        code, message, details, service: as the error body named them, if it did.
        retry_after: seconds the exchange asked us to wait, if it did.
    """

    summary: str | None
    http_status: int | None
    code: str | None
    message: str | None
    details: str | None
    service: str | None
    retry_after: float | None


class ExchangeError(ExporterError):
    """The exchange failed or refused, or something between it and us.

    Args:
        reason: one line for the operator: what happened.
        details: what else is known; an attribute each.
    """

    exit_code = Exit.UNAVAILABLE

    def __init__(self, reason: str, **details: Unpack[ErrorDetails]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.summary = details.get("summary") or reason
        self.http_status = details.get("http_status")
        self.code = details.get("code")
        self.message = details.get("message")
        self.details = details.get("details")
        self.service = details.get("service")
        self.retry_after = details.get("retry_after")


class ApiError(ExchangeError):
    """The exchange did not give a valid response to a request."""

    outcome: ClassVar[Outcome]
    retryable: ClassVar[bool] = False


class StreamError(ExchangeError):
    """The stream of events ended, or could not begin.

    Args:
        reason: one line for the operator: what happened.
        cause: of the gap that begins.
        certain_until: the last instant until which no event is missing, UTC; None if no stretch
            had begun.
        details: what else is known; an attribute each.
    """

    def __init__(
        self,
        reason: str,
        *,
        cause: StreamGapCause,
        certain_until: datetime | None = None,
        **details: Unpack[ErrorDetails],
    ) -> None:
        super().__init__(reason, **details)
        self.cause = cause
        self.certain_until = certain_until


class UnauthorizedError(ApiError):
    """The exchange refused the credentials (401, 403)."""

    outcome: ClassVar[Outcome] = "unauthorized"
    exit_code = Exit.UNAUTHORIZED


class RejectedError(ApiError):
    """The exchange refused the request: a redirect, or a 4xx that is not about credentials."""

    outcome: ClassVar[Outcome] = "rejected"


class RateLimitedError(ApiError):
    """The exchange asked for fewer requests (429)."""

    outcome: ClassVar[Outcome] = "rate_limited"
    retryable = True


class ServerError(ApiError):
    """The exchange failed (5xx)."""

    outcome: ClassVar[Outcome] = "server_error"
    retryable = True


class UnreachableError(ApiError):
    """No complete response arrived: name lookup, connection, TLS or transfer failed."""

    outcome: ClassVar[Outcome] = "unreachable"
    retryable = True


class DeadlineError(ApiError):
    """The poll's deadline passed before the response was complete."""

    outcome: ClassVar[Outcome] = "timeout"


class InvalidResponseError(ApiError):
    """A 200 whose body is not a complete, valid list of order groups."""

    outcome: ClassVar[Outcome] = "invalid_response"
    exit_code = Exit.INVALID_RESPONSE
