"""Test that a poll that can never be written is reported and blocks no later poll."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, RunCli, WriteConfig

from soak.witness import broken_promises, record_of

_GROUP = "group-🦉"


@pytest.fixture
def latin_url(postgres_server: str) -> Iterator[str]:
    """Yield the URL of a Postgres database in LATIN1, which cannot encode an owl."""
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(
            "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        url = make_url(postgres_server).set(drivername="postgresql+psycopg", database="latin")
        yield url.render_as_string(hide_password=False)
        admin.execute("DROP DATABASE latin WITH (FORCE)")


def test_polls_that_postgres_refuses_are_reported_lost_and_show_as_a_gap(
    latin_url: str,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=latin_url, poll={"interval": "0.2s"}
    )
    witness.churn = 0.0
    groups, served = witness.groups(key_pair.key_id), witness.served[key_pair.key_id]
    daemon = start_daemon(config)
    daemon.wait(lambda: len(served) >= 2, "polls before")
    groups.create(_GROUP)
    before = len(served)
    daemon.wait(lambda: len(served) >= before + 8, "polls that the database refuses")
    groups.delete(_GROUP)
    after = len(served)
    daemon.wait(lambda: len(served) >= after + 3, "polls after")

    assert daemon.stop() == 0
    assert "can never be written and is lost" in daemon.text
    recorded = record_of(latin_url)
    assert broken_promises(recorded) == []
    assert recorded.polls[-1]["outcome"] == "ok"
    assert [stretch["gap_cause"] for stretch in recorded.coverage] == [None, "not_kept"]
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as spool:
        assert spool.execute("SELECT COUNT(*) FROM polls").fetchone() == (0,)


def test_an_unreadable_entry_does_not_block_later_ones(
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    tmp_path: Path,
) -> None:
    database = tmp_path / "order_groups.db"
    config = write_config(base_url=witness.base_url)
    assert run_cli("--config", config, "run-once").returncode == 0
    # The trigger makes every write fail at once, whereas a lock would take a timeout.
    with closing(sqlite3.connect(database)) as other, other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON accounts BEGIN DELETE FROM no_such_table; END"
        )
    for _ in range(3):
        assert run_cli("--config", config, "run-once").returncode == 78
    with closing(sqlite3.connect(database)) as other, other:
        other.execute("DROP TRIGGER refuse")
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as spool, spool:
        spool.execute("UPDATE polls SET poll = '{' WHERE id = (SELECT MIN(id) FROM polls)")

    done = run_cli("--config", config, "run-once")

    assert done.returncode == 0
    assert "cannot read, and keeps it" in done.stderr
    recorded = record_of(f"sqlite:///{database}")
    assert broken_promises(recorded) == []
    assert [poll["outcome"] for poll in recorded.polls] == ["ok"] * 4
    assert len(witness.served[key_pair.key_id]) == 5
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as spool:
        left: list[tuple[Any, ...]] = spool.execute("SELECT poll FROM polls").fetchall()
    assert left == [("{",)]
