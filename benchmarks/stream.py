"""Measure how late an event is recorded, and how fast the whole daemon records a burst."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from benchmarks import history
from benchmarks.daemon import Daemon, Witness, memory
from benchmarks.results import EXPORTER, FLOOR, Line
from benchmarks.setting import KEY_ID, Samples, Setting

_OTHER_KEY_ID = "00000000-0000-4000-8000-000000000001"
_RATE = 10  # events a second
_INTERVAL = 1.0  # seconds between two polls, in a burst


def _where(on_postgres: bool) -> str:
    return "Postgres" if on_postgres else "SQLite"


def latency(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure ten events a second, each from its sending until its commit has returned."""
    count = 100 if setting.quick else 400
    keys = {FLOOR: KEY_ID, EXPORTER: _OTHER_KEY_ID}
    for key_id in keys.values():
        setting.fill(25, key_id)
    places = {
        name: setting.place(key_ids=[key_id], on_postgres=on_postgres, detail=str(count))
        for name, key_id in keys.items()
    }
    with (
        setting.temporary(places[FLOOR]),
        setting.temporary(places[EXPORTER]),
        setting.start("floor_listener", places[FLOOR]) as floor,
        setting.start("exporter_listener", places[EXPORTER]) as exporter,
    ):
        sent = setting.pace(list(keys.values()), events=count, rate=_RATE)
        late = {
            name: _late(sent[keys[name]], process.ask()["commits"])
            for name, process in ((FLOOR, floor), (EXPORTER, exporter))
        }
    case = f"an event, from its sending to its commit, {_RATE} a second, {_where(on_postgres)}"
    return [
        Line(
            case=f"{case}: median",
            unit="ms",
            values={name: each[len(each) // 2] for name, each in late.items()},
            at_most=2,
        ),
        Line(
            case=f"{case}: 99th percentile",
            unit="ms",
            values={name: each[len(each) * 99 // 100] for name, each in late.items()},
            at_most=3,
        ),
    ]


def _late(sent: Sequence[float], commits: Sequence[tuple[int, float]]) -> list[float]:
    """Return how late each event was committed, in seconds, in ascending order."""
    committed = [at for events, at in commits for _ in range(events)]
    return sorted(last - first for first, last in zip(sent, committed, strict=True))


def burst(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure a burst as a kill switch causes it, while the daemon polls another account."""
    count = 20_000 if setting.quick else 100_000
    for key_id in (KEY_ID, _OTHER_KEY_ID):
        setting.fill(25, key_id)
    samples = Samples()
    for _ in range(1 if setting.quick else 3):
        place = setting.place(on_postgres=on_postgres, detail=str(count))
        with setting.temporary(place), setting.start("floor_listener", place) as process:
            sent = setting.burst(KEY_ID, count)
            answer = process.ask()
            samples.add(FLOOR, rate=count / (answer["commits"][-1][1] - sent))
            samples.add(FLOOR, memory=answer["peak"], gap=_INTERVAL)
        place = setting.place(key_ids=(KEY_ID, _OTHER_KEY_ID), on_postgres=on_postgres)
        with setting.temporary(place):
            history.make_schema(place)
            with (
                Daemon(place, interval=f"{_INTERVAL:g}s", listen=True) as daemon,
                Witness(place) as witness,
            ):
                witness.wait_for(
                    "SELECT CASE WHEN COUNT(*) = 2 THEN MIN(polls) END FROM coverage", 3
                )
                sent = setting.burst(KEY_ID, count)
                ended = witness.wait_for(
                    "SELECT SUM(events) FROM stream_coverage", count, every=0.01
                )
                samples.add(EXPORTER, rate=count / (ended - sent))
                samples.add(EXPORTER, memory=memory(daemon.pid, "VmHWM"))
                before = "SELECT MIN(polls) FROM coverage"
                polls = witness.rows(before)[0][0]
                witness.wait_for(before, polls + 2)
                samples.add(EXPORTER, gap=_longest_gap(witness))
    case = f"a burst through the daemon, {count:,} events, {_where(on_postgres)}"
    return [
        Line(case=case, unit="/s", values=samples.medians("rate"), at_most=0.5),
        Line(case=f"peak memory of {case}", unit="MB", values=samples.most("memory"), above=60e6),
        Line(
            case=f"longest time between two polls in {case} (floor: the interval)",
            unit="ms",
            values=samples.most("gap"),
            at_most=2,
        ),
    ]


def _longest_gap(witness: Witness) -> float:
    """Return the longest time between the starts of two polls of an account, in seconds."""
    rows = witness.rows("SELECT account, started_at FROM polls ORDER BY account, started_at")
    return max(
        (_instant(later) - _instant(earlier)).total_seconds()
        for (account, earlier), (same, later) in pairwise(rows)
        if account == same
    )


def _instant(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
