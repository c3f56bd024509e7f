"""The demo: run the real daemon against a busy local exchange, and show what happens.

`place` has the files, `exchange` and `market` the other side, `show` and `summary` the display.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.clock import Clock, elapsed
from exporter.config.load import load
from exporter.daemon.listening import Listening
from exporter.daemon.scheduler import Scheduler
from exporter.demo.exchange import Exchange
from exporter.demo.market import Market
from exporter.demo.place import Place, find_place, occupied
from exporter.demo.show import Display, Feed, Narrator
from exporter.demo.summary import count_polls, show_summary
from exporter.hooks import Hooks
from exporter.logs import setup
from exporter.wiring import recorder_of

SEED = 2242
"""The market's seed. Among its first sixteen steps are a fault that a second attempt overcomes, one
that fails a poll, one that leaves a gap, and a response that lacks a group."""

# After the market's last step, two polls confirm a removal, and the poll that is under way may be
# too early to see it.
_LAST_POLLS = 3
_LATEST = 6.0  # seconds that these polls may take beyond the end

_FIRST_POLL = 0.75  # seconds until the first change, which leaves time for the first poll
_REDRAW = 0.05  # seconds


def run(seconds: int, directory: Path | None) -> None:
    """Show the exporter at work, then what it recorded.

    Args:
        seconds: how long; the exporter may need a few more to catch up.
        directory: for the files, which stay; None for a fresh temporary one.

    Raises:
        ConfigurationError: the directory cannot be used.
        DatabaseError: the database in it failed.
    """
    place = find_place(directory)
    display = Display()
    with occupied(place), Exchange() as exchange:
        key_id, public_key = place.furnish(exchange.base_url)
        exchange.register(key_id, public_key)
        _introduce(display, place)
        _Demo(display, exchange, key_id, seconds).run(place)
    show_summary(display, place)


def _introduce(display: Display, place: Place) -> None:
    display.line("A pretend exchange on this machine, where order groups come, change and go, and")
    display.line("which fails now and then. The real exporter polls it every second, listens to")
    display.line("its events, and records what each group was, and when. No account is used.")
    display.line("Times are UTC.")
    if place.used_before:
        display.line("The history in this directory goes on; the exchange starts empty.")
    display.line()


class _Demo:
    """One run of the daemon beside the market."""

    def __init__(self, display: Display, exchange: Exchange, key_id: str, seconds: int) -> None:
        self._display = display
        self._exchange = exchange
        self._key_id = key_id
        self._seconds = seconds
        self._market = Market(exchange, key_id, SEED)
        # A short demo is faster, so that eight steps, two of them faults, fit into 3 seconds.
        self._pace = min(max(seconds / 20, 0.25), 1.0)
        self._market_closes = max(seconds - _LAST_POLLS, 0.85 * seconds)

    def run(self, place: Place) -> None:
        """Run the daemon and the market until the time is over, or until a signal ends them."""
        configuration = load(place.configuration)
        stop = threading.Event()
        feed = Feed()
        hooks = Hooks(feed)
        clock = Clock()
        setup.quiet_libraries()
        with (
            _signals() as interrupted,
            recorder_of(
                configuration, configuration.accounts, stop=stop, hooks=hooks, clock=clock
            ) as recorder,
        ):
            # This creates the tables, so that their polls can be counted.
            recorder.prepare()
            narrator = Narrator(self._display, polls=count_polls(place))
            with feed.attached():
                scheduler = Scheduler(recorder, stop=stop, hooks=hooks)
                listening = Listening(
                    recorder, hooks=hooks, clock=clock, poll_soon=scheduler.poll_soon
                )
                scheduler.start()
                listening.start()
                try:
                    self._play(narrator, feed, interrupted)
                finally:
                    self._display.status("")
                    listening.begin_stop()
                    scheduler.stop()
                    listening.stop()
                narrator.tell_all(feed)

    def _play(self, narrator: Narrator, feed: Feed, interrupted: threading.Event) -> None:
        began = elapsed()
        next_step = max(self._pace, _FIRST_POLL)
        observed_at_close = None
        while not interrupted.is_set():
            passed = elapsed() - began
            narrator.tell_all(feed)
            if next_step <= min(passed, self._market_closes):
                self._display.happened(time.time(), "exchange", self._market.step())
                next_step += self._pace
            if passed > self._market_closes:
                if observed_at_close is None and not self._exchange.scripted(self._key_id):
                    observed_at_close = narrator.observed
                caught_up = (
                    observed_at_close is not None
                    and narrator.observed >= observed_at_close + _LAST_POLLS
                )
                if passed >= self._seconds + (0.0 if caught_up else _LATEST):
                    break
            self._display.countdown(passed, self._seconds)
            time.sleep(_REDRAW)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM set an event, which this thread may check but must not wait for.

    The handlers run on this thread. A wait would hold the lock that they need to set the event.
    """
    asked = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda _number, _frame: asked.set()) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
