"""Test that many accounts keep their grid while their database is silent."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soak.witness import broken_promises, differences, record_of
from tests.reliability.conftest import lateness
from tests.support.daemons import Daemon, StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig
    from tests.reliability.conftest import Link

_INTERVAL = 2.0  # seconds
_KEYS = {f"account-{number}": f"key-of-account-{number:02}" for number in range(20)}


Configure = Callable[[str], Path]


@pytest.fixture
def config(witness: "Witness", key_pair: "KeyPair", write_config: "WriteConfig") -> Configure:
    """Return a function that writes a configuration of many accounts."""
    for key in _KEYS.values():
        witness.register(key, key_pair.public_key)
    first, *others = ({"name": name, "key_id": key} for name, key in _KEYS.items())

    def write(url: str) -> Path:
        return write_config(
            database_url=url,
            base_url=witness.base_url,
            poll={"interval": f"{_INTERVAL}s"},
            account=first,
            more_accounts=others,
        )

    return write


def _asked(witness: "Witness", key: str) -> list[float]:
    return [request.received_at for request in witness.requests if request.key_id == key]


def _accounts(daemon: Daemon, event: str) -> set[str]:
    """Return the accounts for which the daemon has logged an event."""
    return {line["account"] for line in daemon.lines(event)}


def _assert_all_keep_their_grid(daemon: Daemon, witness: "Witness") -> None:
    daemon.wait(
        lambda: _accounts(daemon, "spooled") >= _KEYS.keys(),
        "a spooled poll of each account",
    )
    before = {key: len(_asked(witness, key)) for key in _KEYS.values()}
    daemon.wait(
        lambda: all(len(_asked(witness, key)) >= count + 3 for key, count in before.items()),
        "polls while the database is silent",
    )
    late = {key: lateness(_asked(witness, key)[count:], _INTERVAL) for key, count in before.items()}
    assert all(abs(each) < _INTERVAL for ticks in late.values() for each in ticks), late


def _assert_nothing_is_lost(daemon: Daemon, witness: "Witness", url: str) -> None:
    daemon.wait(lambda: _accounts(daemon, "drained") >= _KEYS.keys(), "an empty spool")
    daemon.wait(
        lambda: _accounts(daemon, "recovered") >= _KEYS.keys(),
        "recovery of all accounts",
    )
    assert daemon.stop() == 0
    recorded = record_of(url)
    assert broken_promises(recorded) == []
    for name, key in _KEYS.items():
        assert differences(recorded, name, witness.served[key], complete=True) == []


@pytest.mark.parametrize("from_the_start", [True, False])
def test_twenty_accounts_keep_their_grids_while_postgres_is_silent(
    from_the_start: bool,
    link: "Link",
    config: Configure,
    witness: "Witness",
    start_daemon: StartDaemon,
    postgres_url: str,
) -> None:
    if from_the_start:
        link.frozen.set()
    daemon = start_daemon(config(link.url))
    daemon.wait(lambda: all(_asked(witness, key) for key in _KEYS.values()), "polls of all")
    link.frozen.set()
    _assert_all_keep_their_grid(daemon, witness)
    link.frozen.clear()
    _assert_nothing_is_lost(daemon, witness, postgres_url)


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Hold SQLite's write lock from another connection."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_twenty_accounts_keep_their_grids_while_sqlite_is_locked(
    config: Configure, witness: "Witness", start_daemon: StartDaemon, tmp_path: Path
) -> None:
    database = tmp_path / "order_groups.db"
    daemon = start_daemon(config(f"sqlite:///{database}"))
    daemon.wait(lambda: all(_asked(witness, key) for key in _KEYS.values()), "polls of all")
    with _locked(database):
        _assert_all_keep_their_grid(daemon, witness)
    _assert_nothing_is_lost(daemon, witness, f"sqlite:///{database}")
