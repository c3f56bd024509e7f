"""Poll many accounts with the floor, in turn, and count polls and CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

from benchmarks.place import Place
from benchmarks.subjects import floor


class FloorDaemon:
    """One thread that polls account after account."""

    def __init__(self, polled: floor.Floor, accounts: int, seconds: float) -> None:
        self._floor = polled
        self._accounts = accounts
        self._seconds = seconds

    def poll(self) -> dict[str, float]:
        """Poll for some seconds, and return the work done in them."""
        polls, wall, cpu = 0, perf_counter(), process_time()
        while perf_counter() - wall < self._seconds:
            self._floor.poll()
            polls += self._accounts
        return {"polls": polls, "wall": perf_counter() - wall, "cpu": process_time() - cpu}


@contextmanager
def subject(place: Place) -> Iterator[FloorDaemon]:
    """Yield the floor after each account's first poll; `detail` is that of `exporter_daemon`."""
    _, seconds = place.detail.split()
    with floor.subject(place) as polled:
        polled.poll()
        yield FloorDaemon(polled, len(place.key_ids), float(seconds))
