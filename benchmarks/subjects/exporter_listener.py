"""Run the whole daemon in a process that reports when it committed events."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.place import Place
from benchmarks.subjects.commits import Commits
from benchmarks.subjects.exporter_poller import configure
from exporter.clock import Clock
from exporter.daemon.listening import Listening
from exporter.daemon.scheduler import Scheduler
from exporter.hooks import Event, EventsRecorded, Hooks
from exporter.wiring import recorder_of


class Recorded:
    """A hook that records the daemon's commits."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits

    def receive(self, event: Event) -> None:
        """Record the commit of events."""
        if isinstance(event, EventsRecorded):
            self._commits.add(len(event.events), event.recorded_at.timestamp())


@contextmanager
def subject(place: Place) -> Iterator[Commits]:
    """Yield the commits of a running daemon; `detail` is the number of events that will come."""
    configuration = configure(place)
    commits = Commits(int(place.detail))
    stop, clock, hooks = threading.Event(), Clock(), Hooks(Recorded(commits))
    accounts = configuration.accounts
    with recorder_of(configuration, accounts, stop=stop, hooks=hooks, clock=clock) as recorder:
        recorder.prepare()
        scheduler = Scheduler(recorder, stop=stop, hooks=hooks)
        listening = Listening(recorder, hooks=hooks, clock=clock, poll_soon=scheduler.poll_soon)
        scheduler.start()
        listening.start()
        yield commits
        listening.begin_stop()
        scheduler.stop()
        listening.stop()
