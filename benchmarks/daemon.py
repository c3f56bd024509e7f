"""Run the command `daemon` as a process, and read its memory, its CPU and its database."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.place import Place
from benchmarks.setting import ROOT
from benchmarks.subjects.exporter_poller import write_configuration

_TICKS = os.sysconf("SC_CLK_TCK")
_SECONDS = 120.0  # the longest wait for anything


class Daemon:
    """A daemon that runs as long as its context lasts.

    Args:
        place: its place, with the schema already created.
        interval: the time between two polls of an account, as the configuration has it.
        listen: whether the daemon records the accounts' events.
    """

    def __init__(self, place: Place, *, interval: str, listen: bool) -> None:
        configuration = write_configuration(place, interval=interval, listen=listen)
        with (Path(place.directory) / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "exporter", f"--config={configuration}", "daemon"],
                cwd=ROOT,
                stderr=log,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def memory(pid: int, name: str = "VmRSS") -> int:
    """Return the resident memory of a process in bytes; with "VmHWM", its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not say {name}")


def cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Witness:
    """A context manager that reads a place's database while others write to it."""

    def __init__(self, place: Place) -> None:
        self._connection: Any
        if place.postgres is None:
            self._connection = sqlite3.connect(place.sqlite_file, isolation_level=None)
        else:
            import psycopg

            self._connection = psycopg.connect(place.postgres, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return list(self._connection.execute(query).fetchall())

    def wait_for(self, query: str, count: int, *, every: float = 0.2) -> float:
        """Wait until a query returns `count` or more.

        Args:
            query: returns one number.
            count: the number to wait for.
            every: seconds between two queries.

        Returns:
            When it did, in seconds since the epoch.
        """
        until = time.monotonic() + _SECONDS
        found: Any = None
        while time.monotonic() < until:
            with suppress(sqlite3.OperationalError):  # the database may be locked for a moment
                ((found,),) = self.rows(query)
                if found is not None and found >= count:
                    return time.time()
            time.sleep(every)
        raise TimeoutError(f"{query}: {found} in {_SECONDS:.0f} s, not {count}")
