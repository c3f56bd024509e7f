"""Cooldowns: do not poll an account for a while after refused credentials (401, 403) or 429."""

from exporter.clock import elapsed
from exporter.errors import ApiError, UnauthorizedError
from exporter.history.claim import UNAUTHORIZED_THRESHOLD

COOLDOWN = 300.0
"""Seconds between two polls of an account whose credentials are refused, in a daemon."""

# A tick that comes some milliseconds early must find the cooldown over.
COOLDOWN_BETWEEN_TICKS = COOLDOWN - 0.1
"""Seconds from the start of a refused poll until a tick may poll again."""

_LONGEST_RETRY_AFTER = 300.0  # seconds that a 429 may keep an account from being polled


class Cooldown:
    """The cooldown of one account, as far as the polls of this process know.

    The database holds it too, for all exporters (`exporter.history.head`). This copy also works
    while the database is away, and saves a claim.
    """

    def __init__(self) -> None:
        self._unauthorized_polls = 0
        self._began = 0.0  # when the latest poll began, by `elapsed()`
        self._cooldown_until = 0.0  # by `elapsed()`

    def remaining(self) -> float:
        """Return the seconds until the account may be asked again; 0 if it may be asked now."""
        return max(0.0, self._cooldown_until - elapsed())

    def know(self, unauthorized_polls: int) -> None:
        """Take over how many polls in a row were refused, whichever exporters made them."""
        self._unauthorized_polls = unauthorized_polls

    def begin(self) -> None:
        """Note that a poll begins."""
        self._began = elapsed()

    def succeeded(self) -> None:
        """Note a successful poll."""
        self._unauthorized_polls = 0

    def failed(self, error: ApiError) -> None:
        """Note a poll that failed, and why."""
        refused = isinstance(error, UnauthorizedError)
        self._unauthorized_polls = self._unauthorized_polls + 1 if refused else 0
        self._cooldown_until = elapsed() + retry_after(error)
        if self._unauthorized_polls >= UNAUTHORIZED_THRESHOLD:
            self._cooldown_until = max(self._cooldown_until, self._began + COOLDOWN_BETWEEN_TICKS)


def retry_after(error: ApiError | None) -> float:
    """Return the seconds for which the exchange asked not to be polled, within reason."""
    return 0.0 if error is None else min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER)
