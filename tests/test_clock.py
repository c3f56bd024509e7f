"""Both clocks, and a real daemon whose wall clock is stepped by an hour."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from exporter import clock
from exporter.demo.exchange import Answer, Exchange, Request

if TYPE_CHECKING:
    # Tests are no package: these are for the type checker alone.
    from tests.conftest import WriteConfig

# Shifts what a process takes for the wall clock by as many seconds as a file says. Elapsed time
# is left alone, as a step of the real clock leaves it.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("WALL_CLOCK_SHIFT"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *spec) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, spec);
    if (clock == CLOCK_REALTIME && !result) spec->tv_sec += shift();
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec spec;
    clock_gettime(CLOCK_REALTIME, &spec);
    now->tv_sec = spec.tv_sec; now->tv_usec = spec.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec spec;
    clock_gettime(CLOCK_REALTIME, &spec);
    if (out) *out = spec.tv_sec;
    return spec.tv_sec;
}
"""


def test_instants_increase_though_the_wall_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    microsecond = timedelta(microseconds=1)
    readings = [noon, noon, noon - timedelta(hours=1), noon + timedelta(hours=1), noon]

    class WallClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # as plain datetimes
            assert tz is UTC
            return readings.pop(0)

    instants = clock.Clock()
    monkeypatch.setattr(clock, "datetime", WallClock)
    assert [instants.now() for _ in range(5)] == [
        noon,
        noon + microsecond,
        noon + 2 * microsecond,
        noon + timedelta(hours=1),
        noon + timedelta(hours=1) + microsecond,
    ]


def test_elapsed_time_passes() -> None:
    before = clock.elapsed()
    time.sleep(0.01)
    assert 0.005 < clock.elapsed() - before < 10


@pytest.fixture
def step(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Steps the wall clock of processes that are started with the environment that it gives."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("NOT TESTED: stepping a daemon's wall clock needs Linux and a C compiler")
    source, shim, shift = (tmp_path / name for name in ("shim.c", "shim.so", "shift"))
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)

    def to(seconds: int) -> dict[str, str]:
        new = shift.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(shift)
        return {"LD_PRELOAD": str(shim), "WALL_CLOCK_SHIFT": str(shift)}

    return to


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_daemon_polls_on_when_its_wall_clock_is_stepped(  # noqa: PLR0917  # pytest passes fixtures by name
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    sqlite_url: str,
    tmp_path: Path,
    step: Callable[[int], dict[str, str]],
    seconds: int,
) -> None:
    environment = step(0)
    # The exchange lives on the same machine, and its clock is stepped with it.
    shifted: list[float] = []

    def at_any_time(request: Request) -> Answer:
        shifted.append(int(request.headers["kalshi-access-timestamp"]) / 1000 - request.received_at)
        return Answer.json({"order_groups": []})

    exchange.script(key_id, *[at_any_time] * 100)
    config = write_config(database_url=sqlite_url, poll={"interval": "500ms", "deadline": "5s"})
    log = tmp_path / "daemon.log"
    with log.open("wb") as stderr:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config", config, "daemon"],
            env=environment,
            stderr=stderr,
        )
    try:
        exchange.wait_for_requests(3, seconds=60)
        exchange.clock_offset = seconds
        step(seconds)
        count = len(exchange.requests)
        exchange.wait_for_requests(count + 6, seconds=60)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    finally:
        daemon.kill()
        daemon.wait()
    asked = [request.received_at for request in exchange.requests]
    # The clock was stepped, as the signatures' timestamps show, and nothing came of it: no tick
    # was an interval late, and none was doubled.
    assert abs(shifted[-1] - seconds) < 5
    waits = [after - before for before, after in pairwise(asked[1:])]
    assert max(waits) < 10  # a busy machine's; a step that were followed would take an hour
    assert len(asked) <= (asked[-1] - asked[0]) / 0.5 + 2
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        polls = connection.execute(text("SELECT outcome, observed_at FROM polls ORDER BY id"))
        outcomes, observed = zip(*polls, strict=True)
    engine.dispose()
    assert set(outcomes) == {"ok"}
    assert list(observed) == sorted(set(observed))
    assert not re.search("Traceback|ERROR|WARNING", log.read_text())
