"""The budget of one poll: its deadline, and the requests that it has sent."""

from exporter.clock import elapsed
from exporter.errors import DeadlineError


class RequestBudget:
    """The deadline of one poll, and what it has spent, whether or not it succeeds.

    Args:
        deadline: seconds that the whole poll may take, from now on.

    Attributes:
        attempts: HTTP requests sent, over all pages.
        http_status: of the last attempt's response; None if none came.
        clock_skew_ms: this machine's clock minus the exchange's, as last measured; or None.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._ends_at = elapsed() + deadline
        self.attempts = 0
        self.http_status: int | None = None
        self.clock_skew_ms: int | None = None

    def remaining(self) -> float:
        """Return the seconds left; not positive once the deadline has passed."""
        return self._ends_at - elapsed()

    def check(self) -> None:
        """Return if the deadline has not passed.

        Raises:
            DeadlineError: the deadline has passed.
        """
        if elapsed() >= self._ends_at:
            raise self.timed_out()

    def timed_out(self) -> DeadlineError:
        """Return the error that says that the deadline has passed."""
        return DeadlineError(
            f"no complete response within the deadline of {self.deadline:g} s",
            http_status=self.http_status,
        )
