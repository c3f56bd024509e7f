"""A process that keeps a session for each account, and does nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.place import Place
from benchmarks.subjects import packages


class Sessions:
    """requests' sessions, each with its connection, after one poll of each account."""

    def __init__(self, ready: list[packages.PackagesAccount]) -> None:
        self._accounts = ready

    def poll(self) -> None:
        """Ask once for each account."""
        for account in self._accounts:
            account.poll()


@contextmanager
def subject(place: Place) -> Iterator[Sessions]:
    """Give sessions for all accounts of a place."""
    with packages.accounts(place) as ready:
        yield Sessions(ready)
