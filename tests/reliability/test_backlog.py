"""Test that a long spool drains in order while polls stay on time."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url

from exporter.database.database import Database
from exporter.history.migrate import migrate
from exporter.model import Observation, OrderGroup, Poll
from exporter.spool.spool import Spool
from soak.witness import Served, broken_promises, differences, record_of
from tests.reliability.conftest import lateness
from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import KeyPair, WriteConfig

_INTERVAL = 2.0  # seconds
_ACCOUNTS = ["one", "two", "three", "four"]
_WAITING = 300  # polls of each account

Away = tuple[str, Callable[[], object]]


@pytest.fixture(params=["sqlite", "postgres"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Away]:
    """Yield the URL of a migrated database that is away, and a function that brings it back."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        with closing(Database(url)) as database:
            migrate(database)
        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(server, autocommit=True) as admin:
            allow = f"ALTER DATABASE {make_url(url).database} ALLOW_CONNECTIONS"
            admin.execute(f"{allow} false")
            yield url, lambda: admin.execute(f"{allow} true")
        return
    there, elsewhere = tmp_path / "order_groups.db", tmp_path / "elsewhere.db"
    with closing(Database(f"sqlite:///{elsewhere}")) as database:
        migrate(database)
    # A dangling link is a database that is away, and replacing the link is one atomic step.
    there.symlink_to(tmp_path / "not mounted" / "order_groups.db")
    other = tmp_path / "other"
    other.symlink_to(elsewhere)
    yield f"sqlite:///{there}", lambda: other.replace(there)


def _fill(spool: Spool, account: str, *, until: datetime) -> list[Served]:
    """Spool polls of an account, every third of which saw a change, and return what they saw."""
    served = []
    for number in range(_WAITING):
        at = until - timedelta(seconds=_INTERVAL * (_WAITING - number))
        limit = Decimal(number // 3)
        spool.put(
            Poll(
                account=account,
                started_at=at - timedelta(milliseconds=5),
                finished_at=at + timedelta(milliseconds=5),
                outcome="ok",
                attempts=1,
                observation=Observation(
                    observed_at=at,
                    digest=f"{limit}",
                    groups={"a": OrderGroup("a", True, f"{limit:.2f}")},
                ),
            )
        )
        served.append(Served(at, {"a": (True, limit, "")}))
    return served


def test_draining_a_thousand_polls_delays_no_poll(
    away: Away,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    url, bring_back = away
    keys = {account: f"key-of-{account}" for account in _ACCOUNTS}
    config = write_config(
        database_url=url,
        base_url=witness.base_url,
        poll={"interval": f"{_INTERVAL}s"},
        account={"name": "one", "key_id": keys["one"]},
        more_accounts=[{"name": name, "key_id": keys[name]} for name in _ACCOUNTS[1:]],
    )
    safe_url = make_url(url).set(password=None).render_as_string()
    with closing(Spool(tmp_path / "spool", 2**28, database=safe_url)) as spool:
        for account, key in keys.items():
            witness.register(key, key_pair.public_key)
            witness.served[key] = _fill(spool, account, until=datetime.now(UTC))
        assert sum(spool.pending().values()) == len(keys) * _WAITING
        daemon = start_daemon(config)
        daemon.wait(lambda: all(_asked(witness, key)[1:] for key in keys.values()), "spooled polls")
        bring_back()
        daemon.wait(lambda: not spool.pending(), "an empty spool")
    enough = len(witness.requests) + 2 * len(keys)
    daemon.wait(lambda: len(witness.requests) >= enough, "polls after")
    assert daemon.stop() == 0

    late = {account: lateness(_asked(witness, key), _INTERVAL) for account, key in keys.items()}
    assert all(abs(each) < _INTERVAL for ticks in late.values() for each in ticks), late
    recorded = record_of(url)
    assert broken_promises(recorded) == []
    for account, key in keys.items():
        assert differences(recorded, account, witness.served[key], complete=True) == []


def _asked(witness: "Witness", key: str) -> list[float]:
    return [request.received_at for request in witness.requests if request.key_id == key]
