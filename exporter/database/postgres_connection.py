"""A connection of psycopg on which every wait for the server has a time-out."""

import math
from collections.abc import Generator
from typing import Any

import psycopg

from exporter.clock import elapsed

PING_SECONDS = 5.0
"""The limit until a statement sets its own: enough for a round trip to a server that responds."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which every wait for the server ends after `timeout` seconds.

    A server that hangs keeps its connections open and sends nothing: no other time-out applies.
    """

    timeout: float | None = PING_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Wait as psycopg does, but no longer than `timeout`. All waits go through here."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        began = elapsed()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and elapsed() - began > (self.timeout or math.inf):
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"no answer from the server in {self.timeout:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
