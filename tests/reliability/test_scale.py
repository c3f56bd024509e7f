"""Test that many accounts keep their grid and that daemons share them, as soak/grid.py does."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import make_url

from exporter.demo.exchange import Exchange
from soak.grid import measure
from tests.support.contention import measured_contention
from tests.support.daemons import StartDaemon

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

_ACCOUNTS = 40
_INTERVAL = 1.0  # seconds


def test_a_hundred_accounts_keep_their_grid(tmp_path: Path) -> None:
    with measured_contention() as contention:
        figures = measure(
            tmp_path,
            accounts=100,
            interval=5.0,
            seconds=7.0,
            daemons=1,
            url=f"sqlite:///{tmp_path / 'order_groups.db'}",
        )
    print(f"{figures}; contention {contention.factor:.1f}")  # noqa: T201  # pytest -rP shows it
    assert figures.polls >= 100
    assert (figures.missed, figures.doubled, figures.failed) == (0, 0, 0)
    # An idle machine takes milliseconds.
    assert figures.quantile(0.5) < 0.5 * contention.factor


def owners(libpq: str) -> dict[str, str]:
    """Return which daemon polled each account last."""
    with psycopg.connect(libpq) as other:
        return dict(other.execute("SELECT account, claimed_by FROM accounts").fetchall())


def test_two_daemons_share_the_accounts_and_one_takes_over(
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    start_daemon: StartDaemon,
    postgres_url: str,
) -> None:
    names = [f"account {number}" for number in range(_ACCOUNTS)]
    for name in names:
        exchange.register(f"{name}.key".replace(" ", "."), key_pair.public_key)
    accounts: list[dict[str, Any]] = [
        {"name": name, "key_id": f"{name}.key".replace(" ", ".")} for name in names
    ]
    config = write_config(
        database_url=postgres_url,
        poll={"interval": f"{_INTERVAL}s"},
        account=accounts[0],
        more_accounts=accounts[1:],
    )
    assert run_cli("migrate").returncode == 0
    libpq = make_url(postgres_url).set(drivername="postgresql")
    url = libpq.render_as_string(hide_password=False)
    first, second = (start_daemon(config) for _ in range(2))
    # At first, whichever daemon arrives first polls an account.
    exchange.wait_for_requests(5 * _ACCOUNTS, seconds=60)

    before = len(exchange.requests)
    seen = []
    for _ in range(3):
        time.sleep(_INTERVAL)
        seen.append(owners(url))
    asked = len(exchange.requests) - before
    # Two daemons together poll as often as one.
    assert asked <= 4.5 * _ACCOUNTS
    shares = Counter(seen[-1].values())
    assert len(shares) == 2
    assert min(shares.values()) >= _ACCOUNTS / 5
    kept = sum(len({owner[name] for owner in seen}) == 1 for name in names)
    assert kept >= _ACCOUNTS * 0.6  # delays on a busy machine make some change hands

    first.process.send_signal(signal.SIGKILL)
    killed, survivor = first.process.pid, second.process.pid

    def processes() -> set[str]:
        return {owner.split(":")[1] for owner in owners(url).values()}

    assert str(killed) in processes()
    second.wait(lambda: processes() == {str(survivor)}, "all accounts taken over")
    assert second.stop() == 0


def test_many_accounts_stay_within_the_limit_of_open_files(
    exchange: Exchange, key_pair: "KeyPair", write_config: "WriteConfig", tmp_path: Path
) -> None:
    exchange.register("a-key", key_pair.public_key)
    accounts: list[dict[str, Any]] = [
        {"name": f"account {number}", "key_id": "a-key"} for number in range(80)
    ]
    config = write_config(account=accounts[0], more_accounts=accounts[1:])
    done = subprocess.run(
        ["bash", "-c", 'ulimit -Sn 60; exec "$0" -m exporter run-once', sys.executable],
        cwd=config.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    assert len(exchange.requests) == 80
