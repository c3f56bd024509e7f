"""Test two polling daemons while Patroni's primary dies, and then its whole host."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import witness
from tests.support.daemons import Daemon, StartDaemon
from tests.support.patroni import PASSWORD, Cluster, missing, run_cluster
from tests.support.recipes import recipe

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, RunCli, WriteConfig

__all__ = ["witness"]  # pytest finds fixtures by name

_INTERVAL = 0.5  # seconds
# The page has 20, 5 and 5; these are the shortest times with which Patroni works.
_TIMINGS = (8, 1, 3)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Yield hosts a and b under Patroni, one of which is the primary, and host c."""
    if (command := missing()) is not None:
        pytest.skip(f"SKIPPED LOUDLY: no Patroni with etcd and Postgres here: {command}")
    with run_cluster(timings=_TIMINGS) as running:
        yield running


def create_database(cluster: Cluster) -> None:
    """Create the exporter's role and database on the primary, as docs/postgres.md says."""
    with psycopg.connect(
        host=cluster.address(cluster.primary() or ""),
        user="postgres",
        password=PASSWORD,
        autocommit=True,
    ) as administrator:
        for statement in filter(str.strip, recipe("postgres.md", "sql create").split(";")):
            administrator.execute(statement.encode())
        administrator.execute("ALTER ROLE kalshi_exporter PASSWORD 'of-the-exporter'")


def url_of(cluster: Cluster) -> str:
    """Return the page's database URL, with the cluster's addresses and the password."""
    [line] = [
        line for line in recipe("patroni.md", "toml url").splitlines() if line.startswith("url")
    ]
    url = cluster.adapted(line).partition('"')[2].rstrip('"')
    return url.replace("${DB_PASSWORD}", "of-the-exporter")


def test_nothing_is_lost_when_the_primary_and_then_its_host_die(
    cluster: Cluster,
    witness: "Witness",  # the fixture
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    create_database(cluster)
    url = url_of(cluster)
    config = write_config(
        base_url=witness.base_url, database_url=url, poll={"interval": f"{_INTERVAL}s"}
    )
    assert run_cli("migrate").returncode == 0
    daemons: list[Daemon] = []
    for name in ("first", "second"):
        own = tmp_path / name
        own.mkdir()
        daemons.append(start_daemon(Path(shutil.copy(config, own / "config.toml"))))
    first, _ = daemons
    served = witness.served[key_pair.key_id]

    def written() -> int:
        if (primary := cluster.primary()) is None:
            return 0
        with suppress(psycopg.OperationalError):
            return int(str(cluster.ask(primary, "SELECT count(*) FROM polls", database="kalshi")))
        return 0

    def waiting() -> int:
        total = 0
        for spool in tmp_path.glob("*/spool/spool.db"):
            with closing(sqlite3.connect(spool)) as connection:
                total += connection.execute("SELECT count(*) FROM polls").fetchone()[0]
        return total

    def wait_for_writes(after: str) -> None:
        began, asked = time.monotonic(), len(served)
        first.wait(lambda: written() > asked, f"polls are written again after {after}")
        print(f"{after}: written again after {time.monotonic() - began:.1f} s")  # noqa: T201  # pytest -rP shows it

    first.wait(lambda: written() >= 3, "polls before")

    primary = cluster.primary()
    assert primary is not None
    cluster.kill_postmaster(primary)
    wait_for_writes("the primary's Postgres was killed")
    cluster.wait(cluster.has_successor, "a standby that may take over")
    dead = cluster.primary()
    assert dead is not None
    cluster.kill(dead)
    wait_for_writes("everything on the primary's host was killed")
    assert cluster.primary() == ("b" if dead == "a" else "a")

    # The dead primary comes back, and must not be a second primary.
    cluster.start_etcd(dead)
    cluster.start_patroni(dead)
    cluster.wait(cluster.has_successor, "the host is back, as a standby that may take over")
    assert not cluster.is_primary(dead)

    first.wait(lambda: waiting() == 0, "both spools are empty")
    for daemon in daemons:
        assert daemon.stop() == 0
    address = cluster.address(cluster.primary() or "")
    recorded = record_of(f"postgresql+psycopg://postgres:{PASSWORD}@{address}/kalshi")
    assert broken_promises(recorded) == []
    assert differences(recorded, "main", served, complete=False) == []
    # Each response is recorded once, though as superseded if both daemons polled at the same time.
    answered = [poll for poll in recorded.polls if poll["outcome"] in {"ok", "superseded"}]
    assert len(answered) == len(served)
