"""Runs daemons as processes, and reads their logs and the rows that they wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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


def wait_until(
    condition: Callable[[], object],
    what: Callable[[], str] | str,
    *,
    unless: Callable[[], str | None] = lambda: None,
) -> None:
    """Wait until a condition holds, and fail with the text `what` if it takes too long.

    Args:
        condition: checked every 20 ms, or less often in proportion to the time that a check takes.
        what: names the condition.
        unless: returns why the condition can never hold; None as long as it may.
    """
    until = time.monotonic() + PATIENCE
    while True:
        began, reason = time.monotonic(), unless()
        if condition():
            return
        if reason is not None:
            pytest.fail(reason)
        now = time.monotonic()
        if now > until:
            pytest.fail(f"not in {PATIENCE:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(min(max(0.02, 3 * (now - began)), 0.2))


class Daemon:
    """A daemon's process, which logs to a file.

    Args:
        config: its configuration.
        log: the log file.
        options: command-line options that go before the command.
        env: environment variables besides `PATH` and `HOME`.
        before: a command that starts the daemon, such as `prlimit`.
    """

    def __init__(
        self,
        config: Path,
        log: Path,
        *,
        options: Sequence[str] = ("--log-format=json",),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self._log = log
        command = [sys.executable, "-m", "exporter", f"--config={config}", *options, "daemon"]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*before, *command],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=config.parent,
                env={"PATH": os.environ["PATH"], "HOME": str(config.parent)} | dict(env or {}),
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

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds, and fail if the daemon ends before."""
        wait_until(condition, lambda: f"{what}: {self.text[-3000:]}", unless=self._why_it_ended)

    def _why_it_ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"the daemon ended with {code}: {self.text[-3000:]}"

    def wait_for_text(self, words: str) -> None:
        """Wait until the log holds these words."""
        self.wait(lambda: words in self.text, f"{words!r} in the log")

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Wait until the daemon has logged an event at least `count` times."""
        self.wait(lambda: self.events.count(event) >= count, f"{event} in the log")

    def lines(self, event: str, **facts: str) -> list[dict[str, Any]]:
        """Return the lines for an event whose fields have these values."""
        wanted = {"event": event} | facts
        return [record for record in self.records if wanted.items() <= record.items()]

    def wait_for_line(self, event: str, number: int = 1, **facts: str) -> dict[str, Any]:
        """Wait for the line with that number among `lines`, counted from 1, and return it."""
        self.wait(lambda: len(self.lines(event, **facts)) >= number, f"{number} {event} in the log")
        return self.lines(event, **facts)[number - 1]

    def reload(self) -> None:
        """Tell the daemon to reload its configuration."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon with a signal, and return its exit code."""
        self.process.send_signal(number)
        # The daemon promises to stop within ten seconds; a loaded machine may need as many more.
        return self.process.wait(20)

    def kill(self) -> None:
        """Kill the daemon if it still runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class StartDaemon(Protocol):
    """The type of the function that `daemons` yields."""

    def __call__(
        self, config: Path, *, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> Daemon:
        """Start a daemon; the arguments are those of `Daemon`."""


@contextmanager
def daemons(
    directory: Path, *, options: Sequence[str] = ("--log-format=json",)
) -> Iterator[StartDaemon]:
    """Yield a function that starts daemons, and kill those that still run when the block ends.

    Args:
        directory: where the daemons' logs go.
        options: command-line options of all daemons that go before the command.
    """
    started: list[Daemon] = []

    def start(
        config: Path, *, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> Daemon:
        log = directory / f"daemon-{len(started)}.log"
        started.append(Daemon(config, log, options=options, env=env, before=before))
        return started[-1]

    try:
        yield start
    finally:
        for daemon in started:
            daemon.kill()
