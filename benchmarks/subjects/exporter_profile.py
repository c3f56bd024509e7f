"""Profile the exporter, to find out which packages take the time of a small poll."""

import cProfile
import pstats
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.place import Place
from benchmarks.subjects import exporter_poller

# A function belongs to the first part that has a word of its file's path, or of its name if it is
# written in C.
PARTS = {
    "signing: cryptography": ("cryptography", "RSAPrivateKey"),
    "HTTP: requests, urllib3, http.client, sockets": (
        "/requests/", "/urllib3/", "/http/", "/email/", "socket", "recv_into", "sendall",
    ),
    "the database itself: sqlite3, psycopg and its waits": (
        "sqlite3.", "/psycopg", "psycopg_", "/select", "/exporter/database/",
    ),
    "SQLAlchemy": ("/sqlalchemy/", "sqlalchemy."),
    "the exporter": ("/exporter/",),
}  # fmt: skip
OTHER = "Python's own: context managers, dictionaries, dates and so on"


class Profiled:
    """A job that polls under the profiler."""

    def __init__(self, polled: exporter_poller.Exporter, rounds: int) -> None:
        self._polled = polled
        self._rounds = rounds

    def poll(self) -> dict[str, Any]:
        """Poll some hundred times, and return each part's share of the time in `parts`."""
        profile = cProfile.Profile()
        for _ in range(self._rounds):
            profile.enable()
            self._polled.poll()
            profile.disable()
        seconds: defaultdict[str, float] = defaultdict(float)
        stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]]
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # the attribute is documented, but not typed
        for (file, _line, function), (_calls, _primitive, own, _all, _callers) in stats.items():
            name = function if file == "~" else Path(file).as_posix()
            for part, marks in PARTS.items():
                if any(mark in name for mark in marks):
                    seconds[part] += own
                    break
            else:
                seconds[OTHER] += own
        whole = sum(seconds.values())
        return {"parts": {part: seconds[part] / whole for part in [*PARTS, OTHER]}}


@contextmanager
def subject(place: Place) -> Iterator[Profiled]:
    """Yield the exporter after its first polls."""
    with exporter_poller.subject(place) as polled:
        for _ in range(3):
            polled.poll()
        yield Profiled(polled, int(place.detail))
