"""Exponential back-off with full jitter between two connections."""

import random

_FIRST = 1.0  # seconds
_LONGEST = 300.0  # seconds

HELD_SECONDS = 10.0
"""After which a connection counts as one that held."""


class Backoff:
    """The waits between the attempts of one connection: from under a second to five minutes.

    With full jitter, clients that lost their connections together do not come back together.
    """

    def __init__(self) -> None:
        self._failures = 0

    def connected(self, seconds: float) -> None:
        """Note how long a connection lasted: a long one resets the waits."""
        if seconds >= HELD_SECONDS:
            self._failures = 0

    def next_wait(self, *, at_least: float = 0.0) -> float:
        """Return the seconds to wait after a failure or a lost connection.

        Args:
            at_least: seconds that the exchange asked for; at most five minutes count.
        """
        ceiling = min(_FIRST * 2.0**self._failures, _LONGEST)
        # Beyond the longest wait the exponent would only grow.
        self._failures = min(self._failures + 1, 16)
        return max(random.uniform(0.0, ceiling), min(at_least, _LONGEST))  # noqa: S311  # no secret
