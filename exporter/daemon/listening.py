"""Listen in the daemon, once a configuration has accounts to listen for."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter.clock import Clock
from exporter.errors import SpoolError
from exporter.hooks import Hooks
from exporter.recording.recorder import Recorder

if TYPE_CHECKING:
    from exporter.recording.stream import Streams

_log = logging.getLogger(__name__)


class Listening:
    """A listener to the events of whichever recorder is in force.

    Args:
        recorder: in force at the start.
        hooks: receive `StreamChanged` and `EventsRecorded`.
        clock: dates what is heard.
        poll_soon: is called with an account whose next poll is due at once.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        hooks: Hooks,
        clock: Clock,
        poll_soon: Callable[[str], None],
    ) -> None:
        self._recorder = recorder
        self._hooks = hooks
        self._clock = clock
        self._poll_soon = poll_soon
        self._streams: Streams | None = None
        self._stopping: threading.Thread | None = None
        self._all_kept = True

    def start(self) -> None:
        """Begin to listen, if there is anything to listen to or to write.

        Raises:
            ConfigurationError: the environment names certificate authorities that are not there.
        """
        if self._recorder.stream.sources or self._has_backlog():
            # Only this import loads websockets.
            from exporter.recording.stream import Streams  # noqa: PLC0415  # as said

            self._streams = Streams(
                self._recorder, hooks=self._hooks, clock=self._clock, poll_soon=self._poll_soon
            )
            self._streams.start()

    def use(self, recorder: Recorder) -> None:
        """Listen as this recorder says; nothing uses the former one once this returns.

        Raises:
            ConfigurationError: as `start`.
        """
        self._recorder = recorder
        if self._streams is None:
            self.start()
        else:
            self._streams.use(recorder)

    def hanging(self, seconds: float) -> Sequence[str]:
        """Return the threads that have not moved for this many seconds."""
        return () if self._streams is None else self._streams.hanging(seconds)

    def begin_stop(self) -> None:
        """Begin to end all connections and to write what they heard, in a thread of its own."""
        if self._streams is not None:
            self._stopping = threading.Thread(target=self._stop, name="stop listening", daemon=True)
            self._stopping.start()

    def stop(self) -> bool:
        """Wait until all connections have ended; return whether what they heard is kept."""
        if self._stopping is None:
            self.begin_stop()
        if self._stopping is not None:
            self._stopping.join()
        if not self._all_kept:
            _log.error("events that were heard last are lost", extra={"event": "events_lost"})
        return self._all_kept

    def _stop(self) -> None:
        assert self._streams is not None  # noqa: S101  # checked by the caller
        self._all_kept = self._streams.stop()

    def _has_backlog(self) -> bool:
        with suppress(SpoolError):  # the polls report it
            return bool(self._recorder.stream.target.spool.accounts())
        return False
