"""Test that pruning and a polling daemon do not disturb each other."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, insert, select

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.history.schema import accounts, polls
from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, RunCli, WriteConfig
    from tests.reliability.conftest import Judge

_OLD = 25_000  # rows, which take three transactions


@pytest.fixture
def aged(database_url: str) -> Database:
    """Return a database that holds years-old polls of another account."""
    database = Database(database_url)
    migrate(database)
    begun = datetime(2020, 1, 1, tzinfo=UTC)
    with database.transaction() as connection:
        connection.execute(
            insert(accounts).values(account="old", version=0, failed_polls=0, refused_polls=0)
        )
        connection.execute(
            insert(polls),
            [
                {
                    "account": "old",
                    "started_at": begun + timedelta(minutes=number),
                    "finished_at": begun + timedelta(minutes=number, seconds=1),
                    "outcome": "timeout",
                    "attempts": 1,
                    "exporter_version": "0",
                }
                for number in range(_OLD)
            ],
        )
    return database


def test_a_daemon_keeps_polling_during_a_prune(
    aged: Database,
    database_url: str,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    judge: "Judge",
) -> None:
    config = write_config(
        base_url=witness.base_url, database_url=database_url, poll={"interval": "0.2s"}
    )
    daemon = start_daemon(config)
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 3, "polls before")
    before = len(served)
    pruned = run_cli("prune", "--older-than", "1d")
    assert pruned.stdout.startswith(f"{_OLD - 1} polls from before "), pruned.stderr
    assert len(served) > before
    daemon.wait(lambda: len(served) >= before + 4, "polls after")
    assert daemon.stop() == 0
    assert "waits in the spool" not in daemon.text
    with aged.transaction() as connection:
        left = select(func.count()).select_from(polls).where(polls.c.account == "old")
        assert connection.execute(left).scalar_one() == 1  # the latest poll stays
    aged.close()
    judge(database_url)
