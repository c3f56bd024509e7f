"""Test that an exporter stopped while it holds an account's row blocks others only briefly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from soak.witness import broken_promises, record_of, wait_until
from tests.support.processes import ending

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from exporter.demo.exchange import Exchange
    from tests.conftest import RunCli, WriteConfig

_IDLE = 20.0  # seconds after which Postgres ends an idle transaction
_BUSY = 8.0  # seconds that a busy machine may add

# The trigger makes an update of the head take a second, which is time to stop the process.
_SLOW = """
CREATE TABLE slowly ();
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF EXISTS (SELECT FROM slowly) THEN PERFORM pg_sleep(1); END IF; RETURN NEW; END';
CREATE TRIGGER slow BEFORE UPDATE ON accounts FOR EACH ROW
    WHEN (NEW.version > OLD.version) EXECUTE FUNCTION slow();
INSERT INTO slowly DEFAULT VALUES;
"""


def _process(config: Path) -> "AbstractContextManager[subprocess.Popen[str]]":
    return ending(
        subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config", str(config), "run-once"],
            cwd=config.parent,
            env={"PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def test_a_stopped_exporter_that_holds_the_row_gives_it_up(
    exchange: "Exchange",
    key_id: str,
    postgres_url: str,
    admin: psycopg.Connection[Any],
    write_config: "WriteConfig",
    run_cli: "RunCli",
) -> None:
    groups = exchange.groups(key_id)
    groups.create("a")
    config = write_config(database_url=postgres_url)
    assert run_cli("--config", config, "run-once").returncode == 0
    groups.create("b")
    admin.execute(_SLOW)

    def session_exists(condition: str) -> bool:
        found = f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        return admin.execute(found).fetchone() is not None

    with _process(config) as stopped:
        wait_until(lambda: session_exists("wait_event = 'PgSleep'"))
        stopped.send_signal(signal.SIGSTOP)
        admin.execute("DELETE FROM slowly")
        wait_until(lambda: session_exists("state = 'idle in transaction'"))
        since = time.monotonic()

        other = run_cli("--config", config, "run-once")
        waited = time.monotonic() - since
        assert (other.returncode, other.stderr.count("\n")) == (75, 1)
        assert waited < 10 + _BUSY

        wait_until(lambda: not session_exists("state = 'idle in transaction'"))
        held = time.monotonic() - since
        assert _IDLE - 1 < held < _IDLE + _BUSY
        # The other exporter's poll waits in the spool, and is written first.
        wait_until(lambda: run_cli("--config", config, "run-once").returncode == 0)

        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(30) == 75
    sys.stdout.write(f"row held for {held:.1f} s; the other one waited {waited:.1f} s\n")
    # The stopped exporter's observation is outdated by now, and must change nothing.
    assert run_cli("--config", config, "run-once").returncode == 0
    recorded = record_of(postgres_url)
    assert broken_promises(recorded) == []
    assert [poll["outcome"] for poll in recorded.polls].count("superseded") == 1
    assert [each["order_group_id"] for each in recorded.snapshots] == ["a", "b"]
