"""Poll with the exporter, wired from a configuration file as its commands are."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.place import Place
from exporter.config.load import load
from exporter.config.model import Configuration
from exporter.errors import Exit
from exporter.logs import setup
from exporter.recording.poller import Poller
from exporter.wiring import recorder_of
from tests.support.traffic import Sent, recorded_statements, rows_written


def write_configuration(place: Place, *, interval: str = "60s", listen: bool = True) -> Path:
    """Write the configuration file for a place, with one account per key.

    Args:
        place: gives the exchange, the keys and the database.
        interval: the time between two polls of an account.
        listen: whether a daemon records the accounts' events.
    """
    accounts = "".join(
        f"""
[[accounts]]
name = "{name}"
base_url = "{place.base_url}"
key_id = "{key_id}"
private_key_file = "{place.key_file}"
"""
        for name, key_id in place.accounts.items()
    )
    path = Path(place.directory) / "config.toml"
    path.write_text(
        f"""
[database]
url = "{place.sqlalchemy_url}"
[poll]
interval = "{interval}"
[stream]
enabled = {str(listen).lower()}
[log]
level = "ERROR"
{accounts}"""
    )
    return path


def configure(place: Place, *, interval: str = "60s") -> Configuration:
    """Write and load a configuration, and set up logging as the commands do."""
    configuration = load(write_configuration(place, interval=interval))
    setup.configure(configuration.log.level, configuration.log.format)
    return configuration


class Exporter:
    """A job that polls each account."""

    def __init__(self, ready: Sequence[Poller]) -> None:
        self._pollers = ready

    def poll(self) -> None:
        """Poll each account once."""
        for poller in self._pollers:
            assert poller.poll() is Exit.OK


class CountedExporter(Exporter):
    """The same job, which also counts the statements sent to the database."""

    def __init__(self, ready: Sequence[Poller], sent: list[Sent]) -> None:
        super().__init__(ready)
        self._sent = sent

    @property
    def statements(self) -> int:
        """The number of statements since the start."""
        return len(self._sent)

    @property
    def rows(self) -> int:
        """The number of rows that the databases have written since the start."""
        return sum(map(rows_written, {each.source for each in self._sent}))


@contextmanager
def subject(place: Place) -> Iterator[Exporter]:
    """Yield the exporter with its schema prepared, ready to poll."""
    configuration = configure(place)
    with (
        recorded_statements() if place.detail == "count" else nullcontext() as sent,
        recorder_of(configuration, configuration.accounts, stop=threading.Event()) as recorder,
    ):
        recorder.prepare()
        pollers = recorder.pollers
        yield Exporter(pollers) if sent is None else CountedExporter(pollers, sent)
