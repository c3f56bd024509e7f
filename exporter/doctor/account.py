"""Ask the exchange for an account's order groups, once."""

import threading

from exporter import wiring
from exporter.clock import Clock, elapsed
from exporter.config.keys import ENVIRONMENTS
from exporter.config.model import Account
from exporter.doctor.finding import Finding, failed
from exporter.errors import ApiError, ConfigurationError, Exit, ExporterError
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.keys import SigningKey
from exporter.kalshi.order_groups import fetch_order_groups

_TOLERATED_SKEW = 5_000  # ms; the exchange refuses a skew from some 10 to 30 seconds on


def check_account(account: Account, key: SigningKey, proxy: str | None) -> Finding:
    """Send one signed request, perhaps through a proxy, and report the result."""
    subject = f"account {account.name}"
    began = elapsed()
    budget = RequestBudget(account.poll.deadline)
    try:
        with wiring.session_of(account, key, threading.Event(), proxy) as session:
            observation = fetch_order_groups(
                session,
                budget,
                subaccount=account.subaccount,
                known_digest=None,
                now=Clock().now,
            )
    except (ApiError, ConfigurationError) as error:
        return failed(subject, error, f"{error}{_elsewhere(account, error)}")
    took = elapsed() - began
    groups = len(observation.groups or ())
    found = f"{groups} groups from {account.base_url} in {took:.2f} s"
    skew = budget.clock_skew_ms
    if skew is not None and abs(skew) > _TOLERATED_SKEW:
        side = "behind" if skew < 0 else "ahead of"
        return Finding(
            subject=subject,
            text=f"{found}; but this machine's clock is {abs(skew) / 1000:.0f} s {side} the"
            " exchange's, which soon refuses it: synchronize the clock",
            exit_code=Exit.UNAUTHORIZED,
        )
    return Finding(subject=subject, text=found)


def _elsewhere(account: Account, error: ExporterError) -> str:
    """Return a hint if the exchange does not know the key: each key belongs to one environment."""
    details = getattr(error, "details", None) or ""
    if "NOT_FOUND" not in details or account.environment is None:
        return ""
    other = next(name for name in ENVIRONMENTS if name != account.environment)
    return f'; a key that was made on {other} works with environment = "{other}" only'
