"""Keep a session for each account, and do nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.place import Place
from benchmarks.subjects import packages


class Sessions:
    """A session of requests for each account."""

    def __init__(self, ready: list[packages.PackagesAccount]) -> None:
        self._accounts = ready

    def poll(self) -> None:
        """Poll each account once, which opens its connection."""
        for account in self._accounts:
            account.poll()


@contextmanager
def subject(place: Place) -> Iterator[Sessions]:
    """Yield the sessions for all accounts of a place."""
    with packages.accounts(place) as ready:
        yield Sessions(ready)
