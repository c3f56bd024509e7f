"""While one exporter has claimed an account, the others leave it alone."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.database.database import Database
from exporter.errors import BusyError, Outcome
from exporter.history.claim import ALWAYS, UNAUTHORIZED_THRESHOLD, ClaimPolicy
from exporter.history.claimant import is_gone, this_process
from exporter.history.head import Head
from exporter.history.store import Store
from tests.history.conftest import History


@pytest.fixture
def second(history: History) -> Store:
    """Return the store of another exporter."""
    return Store(history.database, owner="second")


def claim(history: History, store: Store, seconds: float, **options: Any) -> Head:
    return store.claim("main", now=history.at(seconds), **{"lease": 10.0} | options)


def test_a_first_claim_finds_nothing_observed(history: History) -> None:
    assert claim(history, history.store, 0) == Head(
        account="main",
        version=0,
        observed_at=None,
        last_poll_id=None,
        digest=None,
        group_count=None,
        coverage_started_at=None,
        refused_polls=0,
    )


def test_a_claim_excludes_others_until_it_expires(history: History, second: Store) -> None:
    claim(history, history.store, 0)
    with pytest.raises(BusyError):
        claim(history, second, 9.999999)
    claim(history, second, 10)


def test_a_claim_never_excludes_its_owner(history: History) -> None:
    claim(history, history.store, 0)
    claim(history, history.store, 1, policy=ClaimPolicy(polled_within=60))


def test_a_claim_holds_for_one_account(history: History, second: Store) -> None:
    claim(history, history.store, 0)
    second.claim("other", now=history.at(0), lease=10)


@pytest.mark.parametrize("outcome", ["ok", "timeout"])
def test_a_claim_ends_with_its_poll(history: History, second: Store, outcome: Outcome) -> None:
    head = claim(history, history.store, 0)
    history.write(history.poll(1, outcome=outcome), head)
    claim(history, second, 2)


@pytest.mark.parametrize("outcome", ["ok", "timeout"])
def test_another_exporters_claim_does_not_end_with_ones_own_poll(
    history: History, second: Store, outcome: Outcome
) -> None:
    head = claim(history, history.store, 0)
    claim(history, second, 11)
    history.write(history.poll(12, outcome=outcome), head)
    with pytest.raises(BusyError):
        claim(history, history.store, 13)


def test_a_recent_poll_of_another_exporter_counts(history: History, second: Store) -> None:
    history.write(history.poll(1), claim(history, history.store, 0))
    with pytest.raises(BusyError):
        claim(history, second, 53.9, policy=ClaimPolicy(polled_within=54))
    claim(history, second, 54, policy=ClaimPolicy(polled_within=54))


def test_of_two_claims_at_one_tick_the_later_fails_even_with_an_earlier_clock(
    history: History, second: Store
) -> None:
    history.write(history.poll(10.03), claim(history, history.store, 10.01))
    with pytest.raises(BusyError):
        claim(history, second, 10.0, policy=ClaimPolicy(polled_within=54))
    claim(history, second, 10.0)  # as `run-once` does


@pytest.mark.parametrize("seconds", [-601.0, -86_400.0])
def test_a_claim_and_a_poll_in_the_future_exclude_nobody(
    history: History, second: Store, seconds: float
) -> None:
    claim(history, history.store, 0)
    claim(history, second, seconds, policy=ClaimPolicy(polled_within=60))


def test_consecutive_refused_polls_are_counted(history: History) -> None:
    history.fail(0, "unauthorized")
    history.fail(60, "unauthorized")
    assert history.claim(90).refused_polls == 2
    history.fail(120, "timeout")
    assert history.claim(150).refused_polls == 0
    history.fail(180, "unauthorized")
    history.observe(240)
    assert history.claim(300).refused_polls == 0


def test_the_cooldown_of_a_refused_account_holds_for_every_exporter(
    history: History, second: Store
) -> None:
    for number in range(UNAUTHORIZED_THRESHOLD - 1):
        history.fail(60 * number, "unauthorized")
    last = 60 * UNAUTHORIZED_THRESHOLD
    claim(history, second, last - 30, policy=ClaimPolicy(unauthorized_within=300))
    history.fail(last, "unauthorized")
    for store in (history.store, second):
        with pytest.raises(BusyError):
            claim(history, store, last + 299, policy=ClaimPolicy(unauthorized_within=300))
    claim(history, second, last + 299)  # as `run-once` does
    claim(history, second, last + 299 + 300, policy=ClaimPolicy(unauthorized_within=300))


def busy(history: History, store: Store, seconds: float, policy: ClaimPolicy = ALWAYS) -> str:
    """Return the error of a claim that fails."""
    with pytest.raises(BusyError) as caught:
        claim(history, store, seconds, policy=policy)
    return str(caught.value)


def test_the_error_names_the_owner_of_the_claim_and_its_end(database: Database) -> None:
    history = History(database, Store(database, owner="web-1:4242:1f2e3d4c:9a8b7c6d"))
    second = Store(database, owner="second")
    claim(history, history.store, 0)
    assert busy(history, second, 1) == (
        "another exporter is polling this account. Claimed by web-1:4242 until 00:00:10Z"
    )
    history.write(history.poll(2), history.claim(1.5))
    tick = ClaimPolicy(polled_within=54)
    assert busy(history, second, 3, tick) == "web-1:4242 polled this account at 00:00:02Z"


def test_a_release_ends_all_claims_of_an_exporter(history: History, second: Store) -> None:
    claim(history, history.store, 0)
    history.store.claim("other", now=history.at(0), lease=10)
    history.store.release()
    claim(history, second, 1)
    second.claim("other", now=history.at(1), lease=10)
    # A release does not end a claim that another exporter made since.
    history.store.release()
    assert "Claimed by second" in busy(history, history.store, 2)


@pytest.mark.parametrize("outcome", ["ok", "timeout", "superseded"])
def test_a_release_after_a_poll_leaves_the_account_free(
    history: History, second: Store, outcome: str
) -> None:
    head = claim(history, history.store, 0)
    if outcome == "superseded":
        claim(history, second, 11)
        history.write(history.poll(12), history.claim(11.5, store=second), store=second)
        claim(history, history.store, 13)
        assert history.write(history.poll(14), head).outcome == "superseded"
    else:
        history.write(history.poll(1, outcome="ok" if outcome == "ok" else "timeout"), head)
    history.store.release()
    claim(history, second, 15)


def test_a_claim_of_a_killed_process_of_this_host_does_not_count(
    database: Database, tmp_path: Path
) -> None:
    marker = tmp_path / "claimed"
    script = f"""
import sys, time
from datetime import datetime
from pathlib import Path
from exporter.database.database import Database
from exporter.history.claimant import this_process
from exporter.history.store import Store
store = Store(Database(sys.argv[1]), owner=this_process())
store.claim("main", now=datetime.fromisoformat(sys.argv[2]), lease=20.0)
Path({str(marker)!r}).touch()
time.sleep(60)
"""
    history = History(database, Store(database, owner=this_process()))
    url = database.url.render_as_string(hide_password=False)
    now = history.at(0).isoformat()
    process = subprocess.Popen([sys.executable, "-c", script, url, now])
    try:
        until = time.monotonic() + 60
        while not marker.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        said = busy(history, history.store, 1)
        assert f"Claimed by {socket.gethostname()}:{process.pid} until 00:00:20Z" in said
    finally:
        process.kill()
        process.wait()
    claim(history, history.store, 1)


@pytest.mark.parametrize(
    "name",
    [
        "elsewhere:{dead}:{scope}:9a8b7c6d",  # another host
        "{host}:{dead}:00000000:9a8b7c6d",  # another boot, or another container of the same name
        "{host}:{dead}:9a8b7c6d",  # the form of an older version, without a scope
        "{host}:1:{scope}:9a8b7c6d",  # the process is alive, and may belong to another user
        "{host}:{mine}:{scope}:9a8b7c6d",
        "{host}:{huge}x:{scope}:9a8b7c6d",
        "anything",
        "",
    ],
)
def test_only_a_process_of_this_host_is_known_to_be_gone(name: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host, mine, scope, _ = this_process().rsplit(":", 3)
    values = {"host": host, "scope": scope, "dead": process.pid, "mine": mine, "huge": 10**30}
    assert not is_gone(name.format(**values))
    assert is_gone(f"{host}:{process.pid}:{scope}:9a8b7c6d")
    assert is_gone(f"{host}:{10**30}:{scope}:9a8b7c6d")
