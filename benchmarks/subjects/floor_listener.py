"""Record events with websockets, msgspec and a driver alone: the floor of listening.

One thread reads the socket; another decodes what has queued up, and commits it in one transaction.
The floor keeps no coverage, detects no lost messages, has no bounds, no reconnection and no spool,
and does not poll.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from websockets.asyncio.client import connect

from benchmarks.place import Place
from benchmarks.signing import STREAM_PATH, Signer
from benchmarks.subjects.commits import Commits
from benchmarks.subjects.event_tables import EventTable, Heard, event_table

_BATCH = 10_000
_SUBSCRIBE = '{"id":1,"cmd":"subscribe","params":{"channels":["order_group_updates"]}}'


class Event(msgspec.Struct, gc=False):
    """The event in a message."""

    event_type: str
    order_group_id: str
    ts_ms: int


class Message(msgspec.Struct, gc=False):
    """A message of the channel."""

    seq: int
    msg: Event


_decode = msgspec.json.Decoder(Message).decode


class Listener:
    """Subscribes to one account's events, and writes them."""

    def __init__(self, place: Place, table: EventTable, commits: Commits) -> None:
        self._url = place.base_url.replace("http", "ws", 1).removesuffix("/v2") + "/ws/v2"
        self._key_id = place.key_ids[0]
        self._signer = Signer(place.key_file)
        self._table = table
        self._commits = commits
        self._heard: queue.SimpleQueue[tuple[Any, datetime]] = queue.SimpleQueue()
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        headers = self._signer.headers(self._key_id, STREAM_PATH)
        async with connect(
            self._url, additional_headers=headers, compression=None, ping_interval=None, proxy=None
        ) as socket:
            await socket.send(_SUBSCRIBE)
            await socket.recv()
            async for message in socket:
                self._heard.put((message, datetime.now(UTC)))

    def _write(self) -> None:
        while True:
            gathered = [self._heard.get()]
            with suppress(queue.Empty):
                while len(gathered) < _BATCH:
                    gathered.append(self._heard.get_nowait())
            rows = []
            for message, received_at in gathered:
                event = _decode(message).msg
                event_at = datetime.fromtimestamp(event.ts_ms / 1000, UTC)
                rows.append(Heard(event.order_group_id, event.event_type, event_at, received_at))
            self._table.add(rows)
            self._commits.add(len(rows), time.time())


@contextmanager
def subject(place: Place) -> Iterator[Commits]:
    """Yield the commits of a listener; `detail` is the number of events that will come."""
    commits = Commits(int(place.detail))
    Listener(place, event_table(place), commits)
    yield commits
