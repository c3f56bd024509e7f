"""Claims: while one exporter polls an account, the others leave it alone.

A claim spares the exchange needless requests. The correctness of what is written does not depend
on it.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Executable,
    and_,
    bindparam,
    null,
    or_,
    select,
    update,
)

from exporter.database.database import Database
from exporter.errors import BusyError
from exporter.history.claimant import is_gone, short_name
from exporter.history.head import HEAD_COLUMNS, NOTHING_YET, Head, insert_for
from exporter.history.schema import accounts

UNAUTHORIZED_THRESHOLD = 3
"""After this many refused polls in a row, a daemon asks less often."""

_SAME_TICK = 1.0  # seconds by which exporters may come to the same tick at different times
_LONGEST_LEASE = 600.0  # seconds: the longest deadline that the configuration allows
_ALMOST_A_SECOND = timedelta(microseconds=999_999)


class ClaimPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to leave an account alone although no other exporter is polling it.

    Attributes:
        polled_within: seconds; leave it alone if another exporter began a poll this recently.
        unauthorized_within: seconds; leave it alone if any exporter began a poll this recently and
            the exchange has refused the last `UNAUTHORIZED_THRESHOLD` of them.
        heed_cooldown: leave it alone if the exchange has asked any exporter for a pause that is
            not over.
    """

    polled_within: float = 0.0
    unauthorized_within: float = 0.0
    heed_cooldown: bool = False


ALWAYS = ClaimPolicy()
"""Poll unless another exporter is polling: the policy of a single run."""


def claim(
    database: Database,
    account: str,
    *,
    owner: str,
    now: datetime,
    lease: float,
    policy: ClaimPolicy = ALWAYS,
) -> Head:
    """Read an account's head, and claim the account for a while.

    A claim of a process that was killed on this host counts for nothing.

    Args:
        database: with the schema.
        account: by its name; a row is made for it if it has none.
        owner: who claims, as `exporter.history.claimant.this_process` names it.
        now: the present instant.
        lease: seconds after which others may take the account if the owner does not release it.
        policy: when to leave the account alone.

    Raises:
        BusyError: another exporter is polling the account, or the policy says to leave it alone.
        DatabaseError: the database failed.
    """
    latest = now + timedelta(seconds=_LONGEST_LEASE)
    parameters = {
        "account": account,
        "owner": owner,
        "predecessor": owner,
        "now": now,
        "until": now + timedelta(seconds=lease),
        # Two exporters at one tick may claim in another order than they read the clock.
        "soon": now + timedelta(seconds=min(policy.polled_within, _SAME_TICK)),
        # A claim or poll in the future comes from a wrong clock, and is ignored.
        "latest": latest,
        "polled_before": now - timedelta(seconds=policy.polled_within),
        "refused_before": now - timedelta(seconds=policy.unauthorized_within),
        "cooled_down_by": now if policy.heed_cooldown else latest,
    }
    statement = _claim("sqlite" if database.is_sqlite else "postgresql")
    # The claim need not be durable: after a power cut it does no harm if it is lost.
    row = database.execute_one(statement, parameters, durable=False)
    if row is None:
        held = _Held(*database.execute_one(_HELD, {"of": account}) or _NOBODY)
        if held.by is not None and held.holds(now) and is_gone(held.by):
            parameters["predecessor"] = held.by
            row = database.execute_one(statement, parameters, durable=False)
        if row is None:
            raise held.error(now)
    return Head(*row)


def release(database: Database, account: str, *, owner: str) -> None:
    """Let go of an account, if the owner still holds a claim on it.

    Raises:
        DatabaseError: the database failed.
    """
    database.execute_one(_RELEASE, {"of": account, "owner": owner}, durable=False)


class _Held(msgspec.Struct, frozen=True):
    """Who claimed an account last, and why it may be left alone."""

    by: str | None
    until: datetime | None
    polled_at: datetime | None
    cooldown_until: datetime | None

    def holds(self, now: datetime) -> bool:
        return self.until is not None and self.until > now

    def error(self, now: datetime) -> BusyError:
        """Return the error that says why the account is left alone."""
        if self.by is not None and self.until is not None and self.holds(now):
            return BusyError(
                "another exporter is polling this account. Claimed by"
                f" {short_name(self.by)} until {_time(self.until)}"
            )
        if self.cooldown_until is not None and self.cooldown_until > now:
            return BusyError(f"the exchange asked for a pause until {_time(self.cooldown_until)}")
        by = "another exporter" if self.by is None else short_name(self.by)
        at = "just now" if self.polled_at is None else f"at {_time(self.polled_at)}"
        return BusyError(f"{by} polled this account {at}")


_NOBODY = (None, None, None, None)


def _time(instant: datetime) -> str:
    """Return the time of day in UTC, rounded up to a whole second."""
    return f"{instant.astimezone(UTC) + _ALMOST_A_SECOND:%H:%M:%SZ}"


@cache
def _claim(dialect: str) -> Executable:
    def rested(latest: str, future: str) -> ColumnElement[bool]:
        return or_(
            accounts.c.polled_at.is_(None),
            accounts.c.polled_at <= bindparam(latest),
            accounts.c.polled_at > bindparam(future),
        )

    unclaimed = or_(
        accounts.c.claimed_until.is_(None),
        accounts.c.claimed_until <= bindparam("now"),
        accounts.c.claimed_until > bindparam("latest"),
    )
    mine = or_(
        accounts.c.claimed_by == bindparam("owner"),
        accounts.c.claimed_by == bindparam("predecessor"),
    )
    free = and_(
        or_(mine, and_(unclaimed, rested("polled_before", "soon"))),
        or_(accounts.c.refused_polls < UNAUTHORIZED_THRESHOLD, rested("refused_before", "now")),
        or_(
            accounts.c.cooldown_until.is_(None),
            accounts.c.cooldown_until <= bindparam("cooled_down_by"),
            accounts.c.cooldown_until > bindparam("latest"),
        ),
    )
    taken: dict[str, Any] = {
        "polled_at": bindparam("now"),
        "claimed_by": bindparam("owner"),
        "claimed_until": bindparam("until"),
    }
    statement: Executable = (
        insert_for(dialect, accounts)
        .values(NOTHING_YET | taken)
        .on_conflict_do_update(index_elements=["account"], set_=taken, where=free)
        .returning(*HEAD_COLUMNS)
    )
    return statement


_HELD = select(
    accounts.c.claimed_by,
    accounts.c.claimed_until,
    accounts.c.polled_at,
    accounts.c.cooldown_until,
).where(accounts.c.account == bindparam("of"))
_RELEASE = (
    update(accounts)
    .where(accounts.c.account == bindparam("of"), accounts.c.claimed_by == bindparam("owner"))
    .values(claimed_until=null())
    .returning(accounts.c.account)
)
