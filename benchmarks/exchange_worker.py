"""Run the local exchange in its own process, controlled through standard input.

Each line is a JSON object. A reply follows once the exchange is ready to serve the new state, so
that no subject's time includes the time to build the response body.
"""

import json
import random
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from websockets.frames import Frame, Opcode

from exporter.demo.channel import Channel
from exporter.demo.exchange import Exchange, PublicKey

_TOGETHER = 300  # events of a burst that one system call sends
_LISTENING_SECONDS = 60.0  # the longest wait for a subject to subscribe


class Worker:
    """Executes orders on the exchange.

    Args:
        exchange: the running exchange.
        key: the public key of all accounts.
    """

    def __init__(self, exchange: Exchange, key: PublicKey) -> None:
        self._exchange = exchange
        self._key = key
        self._chance = random.Random(4)
        self._changes = 0

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Execute the order of one line, and return the reply."""
        if "pace" in order:
            return {"sent": self._pace(order["pace"], order["events"], order["rate"])}
        if "burst" in order:
            return {"sent": self._burst(order["key_id"], order["burst"])}
        key_id = order["key_id"]
        if "fill" in order:
            self._exchange.register(key_id, self._key)
            groups = self._exchange.groups(key_id)
            groups.replace(self._group(self._new_id()) for _ in range(order["fill"]))
        else:
            self._churn(key_id, order)
        return {"bytes": len(self._exchange.groups(key_id).body())}

    def _group(self, group_id: str) -> dict[str, object]:
        return {
            "id": group_id,
            "is_auto_cancel_enabled": self._chance.random() < 0.8,
            "contracts_limit_fp": f"{self._chance.randrange(1, 10_000)}.00",
            "exchange_index": self._chance.randrange(4),
        }

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def _churn(self, key_id: str, order: dict[str, Any]) -> None:
        groups = self._exchange.groups(key_id)
        ids = [each["id"] for each in groups.listing()]
        changed, gone = order["changed"], order["gone"]
        chosen = self._chance.sample(ids, changed + gone)
        for each in chosen[:changed]:
            self._changes += 1
            groups.change(each, contracts_limit_fp=f"{10_000 + self._changes}.00")
        for each in chosen[changed:]:
            groups.delete(each)
        for _ in range(order["new"]):
            limit = f"{self._chance.randrange(1, 10_000)}.00"
            groups.create(self._new_id(), contracts_limit=limit)

    def _listening(self, key_id: str) -> Channel:
        """Return an account's channel once a subject is subscribed to it."""
        channel = self._exchange.channel(key_id)
        channel.wait_for_subscribers(1, seconds=_LISTENING_SECONDS)
        return channel

    def _pace(self, key_ids: Sequence[str], events: int, rate: float) -> dict[str, list[float]]:
        """Send events to several accounts at a steady rate, and return when each was sent.

        The accounts take turns at equal intervals, so that none has to wait for another.
        """
        channels = {key_id: self._listening(key_id) for key_id in key_ids}
        sent: dict[str, list[float]] = {key_id: [] for key_id in key_ids}
        due = time.monotonic() + 1.0
        for number in range(events):
            for key_id, channel in channels.items():
                time.sleep(max(0.0, due - time.monotonic()))
                due += 1 / rate / len(channels)
                sent[key_id].append(time.time())
                channel.tell("triggered", f"{number:08}-0000-4000-8000-000000000000")
        return sent

    def _burst(self, key_id: str, events: int) -> float:
        """Send events as fast as the connection takes them, and return when the first was sent.

        The frames are built beforehand, so that the time to build them is not measured. They are
        the first events of the connection, and therefore numbered from one.
        """
        frames = list(self._frames(events))
        together = [
            b"".join(frames[first : first + _TOGETHER]) for first in range(0, events, _TOGETHER)
        ]
        channel = self._listening(key_id)
        sent = time.time()
        for data in together:
            channel.send_bytes(data)
        return sent

    def _frames(self, events: int) -> Iterator[bytes]:
        now = int(time.time() * 1000)
        for number in range(events):
            fields = {
                "event_type": "triggered",
                "order_group_id": self._new_id(),
                "ts_ms": now + number // 100,
            }
            message = {
                "type": "order_group_updates",
                "sid": 1,
                "seq": number + 1,
                "sending_ts_ms": now,
                "msg": fields,
            }
            text = json.dumps(message, separators=(",", ":")).encode()
            yield Frame(Opcode.TEXT, text).serialize(mask=False)


def main() -> None:
    """Serve until standard input ends."""
    key = load_pem_public_key(Path(sys.argv[1]).read_bytes())
    assert isinstance(key, RSAPublicKey)
    with Exchange() as exchange:
        sys.stdout.write(json.dumps({"base_url": exchange.base_url}) + "\n")
        sys.stdout.flush()
        worker = Worker(exchange, key)
        for line in sys.stdin:
            sys.stdout.write(json.dumps(worker.obey(json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
