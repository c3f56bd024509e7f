"""Runs daemons as processes, and reads their logs and the rows that they wrote."""

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
"""Seconds until a test gives up waiting; a wait normally takes one or two."""


def rows(database_url: str, statement: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement))]
    finally:
        engine.dispose()


def wait_until(condition: Callable[[], object], what: Callable[[], str] | str) -> None:
    """Wait until a condition holds, and fail with the text `what` if it takes too long."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"not in {PATIENCE:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


class Daemon:
    """A daemon's process, which logs to a file.

    Args:
        config: its configuration.
        log: the log file.
        options: command-line options that go before the command.
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
        """The log's lines, decoded from JSON."""
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    @property
    def events(self) -> list[str]:
        """The `event` of each line."""
        return [record["event"] for record in self.records]

    @property
    def text(self) -> str:
        """The whole log."""
        return self._log.read_text()

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Wait until the daemon has logged an event at least `count` times."""
        wait_until(
            lambda: self.events.count(event) >= count, lambda: f"{event} in {self.text[-3000:]}"
        )

    def lines(self, event: str, **facts: str) -> list[dict[str, Any]]:
        """Return the lines for an event whose fields have these values."""
        wanted = {"event": event} | facts
        return [record for record in self.records if wanted.items() <= record.items()]

    def wait_for_line(self, event: str, number: int = 1, **facts: str) -> dict[str, Any]:
        """Wait for the line with that number among `lines`, counted from 1, and return it."""
        wait_until(
            lambda: len(self.lines(event, **facts)) >= number,
            lambda: f"{number} {event} in {self.text[-3000:]}",
        )
        return self.lines(event, **facts)[number - 1]

    def reload(self) -> None:
        """Tell the daemon to reload its configuration."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon with a signal, and return its exit code."""
        self.process.send_signal(number)
        # The daemon promises to stop within ten seconds; a loaded machine may need a few more.
        return self.process.wait(15)

    def kill(self) -> None:
        """Kill the daemon if it still runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


StartDaemon = Callable[[Path], Daemon]


@contextmanager
def daemons(
    directory: Path, *, options: Sequence[str] = ("--log-format=json",)
) -> Iterator[StartDaemon]:
    """Yield a function that starts daemons, and kill those that still run when the block ends."""
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
