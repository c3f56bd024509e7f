"""Daemons as processes, and the rows that they wrote."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

PATIENCE = 90.0
"""Seconds until a test gives up; what it waits for takes one or two."""


def rows(database_url: str, statement: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement))]
    finally:
        engine.dispose()


def wait_until(condition: Callable[[], object], what: Callable[[], str] | str) -> None:
    """Return once a condition holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"not in {PATIENCE:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


class Daemon:
    """A daemon's process, which logs to a file.

    Args:
        config: its configuration.
        log: the file.
        options: of the command line, before the command.
    """

    def __init__(
        self, config: Path, log: Path, *, options: Sequence[str] = ("--log-format=json",)
    ) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "exporter",
                    f"--config={config}",
                    *options,
                    "daemon",
                ],
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its lines, decoded."""
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    @property
    def events(self) -> list[str]:
        """What its lines are about."""
        return [record["event"] for record in self.records]

    @property
    def text(self) -> str:
        """All that it logged."""
        return self._log.read_text()

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Return once it has logged an event this often."""
        wait_until(
            lambda: self.events.count(event) >= count, lambda: f"{event} in {self.text[-3000:]}"
        )

    def lines(self, event: str, **facts: str) -> list[dict[str, Any]]:
        """Return its lines about an event that hold these facts."""
        wanted = {"event": event} | facts
        return [record for record in self.records if wanted.items() <= record.items()]

    def wait_for_line(self, event: str, number: int = 1, **facts: str) -> dict[str, Any]:
        """Return the line of that number about an event, once there is one."""
        wait_until(
            lambda: len(self.lines(event, **facts)) >= number,
            lambda: f"{number} {event} in {self.text[-3000:]}",
        )
        return self.lines(event, **facts)[number - 1]

    def reload(self) -> None:
        """Ask it to read its configuration again."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code; it promises to need ten seconds at most."""
        self.process.send_signal(number)
        # A loaded machine may need some more seconds to end a process.
        return self.process.wait(15)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


StartDaemon = Callable[[Path], Daemon]


@contextmanager
def daemons(
    directory: Path, *, options: Sequence[str] = ("--log-format=json",)
) -> Iterator[StartDaemon]:
    """Lend a function that starts daemons; those that still run at the end are killed."""
    started: list[Daemon] = []

    def start(config: Path) -> Daemon:
        log = directory / f"daemon-{len(started)}.log"
        started.append(Daemon(config, log, options=options))
        return started[-1]

    try:
        yield start
    finally:
        for daemon in started:
            daemon.kill()
