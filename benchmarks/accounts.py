"""Measure the memory and CPU of a daemon with many idle accounts."""

import time
from typing import NamedTuple

from benchmarks import history
from benchmarks.daemon import Daemon, Witness, cpu, memory
from benchmarks.results import EXPORTER, FLOOR, Line
from benchmarks.setting import Setting

_GROUPS = 25
_BYTES_PER_CONNECTION = 100_000
_SHARE = 0.03  # of a core, for a thousand connections


class _Usage(NamedTuple):
    """What a process uses while nothing happens: bytes of memory, and a share of a core."""

    memory: float
    cpu: float


def accounts(setting: Setting) -> list[Line]:
    """Measure the memory of 1,000 accounts, and what a WebSocket connection for each adds.

    The connections have no TLS, for which OpenSSL would need additional memory.
    """
    count = 200 if setting.quick else 1_000
    key_ids = [f"00000000-0000-4000-8001-{number:012}" for number in range(count)]
    for key_id in key_ids:
        setting.fill(_GROUPS, key_id)
    place = setting.place(key_ids=key_ids)
    with setting.temporary(place), setting.start("sessions", place) as process:
        process.ask()
        sessions = memory(process.pid)
    deaf, listening = (
        _idle(setting, key_ids, listen=False),
        _idle(setting, key_ids, listen=True),
    )
    many = f"{count:,} accounts of {_GROUPS} groups"
    return [
        Line(
            case=f"daemon's memory, {many} (floor: a process that only keeps {count:,} sessions)",
            unit="MB",
            values={EXPORTER: deaf.memory, FLOOR: sessions},
            at_most=1.5,
        ),
        Line(
            case=f"daemon's memory with {count:,} idle connections, without TLS"
            " (floor: the same daemon without them)",
            unit="MB",
            values={EXPORTER: listening.memory, FLOOR: deaf.memory},
            above=count * _BYTES_PER_CONNECTION,
        ),
        Line(
            case=f"share of a core that the daemon takes with {count:,} idle connections"
            " (floor: without them)",
            unit="%",
            values={EXPORTER: listening.cpu, FLOOR: deaf.cpu},
            above=_SHARE * count / 1_000,
        ),
    ]


def _idle(setting: Setting, key_ids: list[str], *, listen: bool) -> _Usage:
    """Return what a daemon uses after it has polled and subscribed to all accounts."""
    place = setting.place(key_ids=key_ids)
    with setting.temporary(place):
        history.make_schema(place)
        with Daemon(place, interval="1h", listen=listen) as daemon, Witness(place) as witness:
            witness.wait_for("SELECT COUNT(*) FROM coverage", len(key_ids))
            if listen:
                witness.wait_for("SELECT COUNT(*) FROM stream_coverage", len(key_ids))
            # The exchange pings every ten seconds.
            time.sleep(2 if setting.quick else 11)
            used, began = cpu(daemon.pid), time.monotonic()
            time.sleep(5 if setting.quick else 20)
            share = (cpu(daemon.pid) - used) / (time.monotonic() - began)
            return _Usage(memory(daemon.pid), share)
