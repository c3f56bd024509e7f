"""Every statement names the account whose rows it touches, so that tables can be partitioned."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from exporter.history.prune import prune
from tests.support.traffic import Sent, recorded_statements

if TYPE_CHECKING:
    from tests.history.conftest import History

TABLES = r"(?:accounts|coverage|gap_outcomes|order_group_snapshots|polls)"
ALL_ACCOUNTS = re.compile(r"^\s*SELECT accounts\.account\s+FROM accounts\s*$")
"""The one statement that may read all accounts: `prune` lists them."""


@pytest.fixture
def sent() -> Iterator[list[Sent]]:
    """Yield a list that collects the statements sent to any database."""
    with recorded_statements() as statements:
        yield statements


def go_through_polls(history: "History") -> None:
    """Go through every kind of poll, claims, spooled and lost polls, removals and pruning."""
    history.confirm_removal = 3
    a, b, c = map(history.group, "abc")
    history.observe(0, a, b, c)
    history.observe(60, a, b, history.group("c", "7.00"))
    for seconds in (120, 180, 240):
        history.observe(seconds, a)
    history.observe_the_same(300)
    history.fail(360)
    history.fail(420, "unauthorized")
    history.store.note_loss("main", polls=2, last_started_at=history.at(430))
    history.write(history.poll(440, a, b), None)
    history.write(history.poll(440, a, b), None)
    history.write(history.poll(300.5, a), None)
    stale = history.claim(450)
    history.observe(480, a)
    assert history.write(history.poll(490, b), stale).outcome == "superseded"
    history.claim(500)
    history.store.release()
    prune(history.database, before=history.at(470) + timedelta(days=1), dry_run=True)
    assert prune(history.database, before=history.at(470), dry_run=False) > 3


def test_every_statement_names_its_account(history: "History", sent: list[Sent]) -> None:
    go_through_polls(history)
    touching = [each.statement for each in sent if re.search(rf"\b{TABLES}\b", each.statement)]
    assert len(touching) > 40
    for statement in touching:
        if ALL_ACCOUNTS.match(statement):
            continue
        assert _names_account(statement), statement


def _names_account(statement: str) -> bool:
    """Return whether a statement restricts each of its tables to an account, or inserts for one."""
    if re.match(r"\s*(INSERT INTO|COPY) ", statement) and "SELECT" not in statement:
        return "account" in statement
    if re.match(r"\s*INSERT INTO (polls|order_group_snapshots) ", statement):
        return "account" in statement
    conditions = re.findall(r"WHERE(.*?)(?=\bWHERE\b|$)", statement, re.DOTALL)
    used = re.findall(rf"(?:FROM|UPDATE|DELETE FROM|JOIN)\s+{TABLES}\b", statement)
    restricted = re.findall(r"\baccount\)?\s*=\s", statement)
    return bool(conditions) and len(restricted) >= len(used)
