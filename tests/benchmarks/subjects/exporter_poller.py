"""The exporter: its own assembly from a configuration file, and `Poller.poll`."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from exporter.assembly import pollers
from exporter.config import Configuration, load
from exporter.errors import Exit
from exporter.operating import logs
from exporter.poll import Poller
from tests.benchmarks.place import Place


def write_configuration(place: Place, *, interval: str = "60s") -> Path:
    """Write the configuration file for a place, one account per key."""
    accounts = "".join(
        f"""
[[accounts]]
name = "account-{number}"
base_url = "{place.base_url}"
key_id = "{key_id}"
private_key_file = "{place.key_file}"
"""
        for number, key_id in enumerate(place.key_ids)
    )
    path = Path(place.directory) / "config.toml"
    path.write_text(
        f"""
[database]
url = "{place.sqlalchemy_url}"
[poll]
interval = "{interval}"
[log]
level = "ERROR"
{accounts}"""
    )
    return path


def configure(place: Place, *, interval: str = "60s") -> Configuration:
    """Read a configuration as the commands do, and log as it says."""
    configuration = load(write_configuration(place, interval=interval))
    logs.configure(configuration.log.level, configuration.log.format)
    return configuration


class Exporter:
    """Polls each account.

    Attributes:
        statements, rows: sent and written since the start, if they are counted.
    """

    def __init__(self, ready: Sequence[Poller]) -> None:
        self._pollers = ready
        self.statements = 0
        self.rows = 0

    def poll(self) -> None:
        """Poll each account once."""
        for poller in self._pollers:
            assert poller.poll() is Exit.OK

    def count(self) -> None:
        """Count from now on."""

        @event.listens_for(Engine, "after_cursor_execute")
        def _count(
            _connection: Any, cursor: Any, _statement: str, _parameters: Any, _context: Any, _m: Any
        ) -> None:
            self.statements += 1
            if cursor.description is None and cursor.rowcount > 0:
                self.rows += cursor.rowcount
            elif cursor.description is not None and "RETURNING" in _statement:
                self.rows += 1  # of one row each


@contextmanager
def subject(place: Place) -> Iterator[Exporter]:
    """Give the exporter, its schema prepared, ready to poll."""
    configuration = configure(place)
    with pollers(configuration, configuration.accounts, stop=threading.Event()) as ready:
        ready[0].prepare()
        exporter = Exporter(ready)
        if place.detail == "count":
            exporter.count()
        yield exporter
