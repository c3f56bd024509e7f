"""Daemons as processes, and what they wrote."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

PATIENCE = 60.0
"""Seconds until a test gives up on what takes one or two."""


def rows(database_url: str, statement: str) -> list[dict[str, Any]]:
    """Return what a query gives."""
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
    """A daemon's process, with what it logs in a file."""

    def __init__(self, config: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "exporter",
                    f"--config={config}",
                    "--log-format=json",
                    "daemon",
                ],
                stdout=subprocess.DEVNULL,
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
        """Return once it has logged an event so many times."""
        wait_until(
            lambda: self.events.count(event) >= count, lambda: f"{event} in {self.text[-3000:]}"
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and give its exit code; ten seconds are what it promises."""
        self.process.send_signal(number)
        # And as many again as a loaded machine may need to end a process.
        return self.process.wait(15)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@contextmanager
def daemons(directory: Path) -> Iterator[Callable[[Path], Daemon]]:
    """Lend what starts daemons; those that still live at the end are killed."""
    started: list[Daemon] = []

    def start(config: Path) -> Daemon:
        started.append(Daemon(config, directory / f"daemon-{len(started)}.log"))
        return started[-1]

    try:
        yield start
    finally:
        for daemon in started:
            daemon.kill()
