"""The store writes each poll atomically and exactly once, at the expected cost."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, event

from exporter.database.database import Database
from exporter.errors import BusyError, DatabaseError, Outcome
from exporter.history import schema
from exporter.history.migrate import ensure_current, migrate
from exporter.history.store import Store, WriteResult
from exporter.model import Poll
from tests.support.traffic import recorded_statements, rows_written

if TYPE_CHECKING:
    from tests.history.conftest import History

TABLES = ("accounts", "coverage", "gap_outcomes", "order_group_snapshots", "polls")
UNCHANGED = WriteResult(outcome="ok", group_count=1, added=0, changed=0, removed=0)
SUPERSEDED = WriteResult(outcome="superseded")


def everything(history: "History", *but: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables but some."""
    return {name: history.rows(name) for name in TABLES if name not in but}


def test_a_write_returns_what_the_poll_changed(history: "History") -> None:
    a, b = history.group("a"), history.group("b")

    assert history.observe(0, a, b) == WriteResult(
        outcome="ok", group_count=2, added=2, changed=0, removed=0, found=2
    )
    assert history.observe(60, history.group("a", "20.00")) == WriteResult(
        outcome="ok", group_count=1, added=0, changed=1, removed=0, missing=1
    )
    assert history.observe(120, history.group("a", "20.00")) == WriteResult(
        outcome="ok", group_count=1, added=0, changed=0, removed=1
    )
    row = history.row("polls", removed=1)
    assert (row["outcome"], row["group_count"], row["added"]) == ("ok", 1, 0)
    assert (row["observed_at"], row["attempts"]) == (history.at(120), 1)


def test_the_first_observation_may_be_empty(history: "History") -> None:
    assert history.observe(0) == WriteResult(
        outcome="ok", group_count=0, added=0, changed=0, removed=0
    )

    assert history.rows("order_group_snapshots") == []
    assert history.row("coverage")["started_at"] == history.at(0)


@pytest.mark.parametrize("outcome", ["unauthorized", "timeout", "invalid_response"])
def test_a_failed_poll_adds_its_row_and_does_not_change_the_history(
    history: "History", outcome: Outcome
) -> None:
    history.observe(0, history.group("a"))
    before = everything(history, "polls", "accounts", "gap_outcomes")

    assert history.fail(60, outcome) == WriteResult(outcome=outcome)

    assert everything(history, "polls", "accounts", "gap_outcomes") == before
    row = history.row("polls", outcome=outcome)
    assert (row["observed_at"], row["group_count"], row["added"]) == (None, None, None)


def test_an_error_from_the_exchange_is_kept_with_the_poll(history: "History") -> None:
    poll = Poll(
        account="main",
        started_at=history.at(0),
        finished_at=history.at(1),
        outcome="server_error",
        attempts=4,
        http_status=503,
        clock_skew_ms=-1500,
        error_code="code",
        error_message="'; DROP TABLE polls; -- %s %(x)s :y {} 🦀",
        error_details="details",
        error_service="service",
    )
    history.write(poll, None)

    row = history.row("polls")
    for name in poll.__struct_fields__:
        if name != "observation":
            assert row[name] == getattr(poll, name)


def test_a_superseded_poll_adds_its_row_and_changes_nothing_else(history: "History") -> None:
    history.observe(0, history.group("a"))
    stale = history.claim(59)
    history.observe(60, history.group("a"))
    before = everything(history, "polls")

    written = history.write(history.poll(61, history.group("b")), stale)

    assert written == SUPERSEDED
    assert everything(history, "polls") == before
    row = history.row("polls", outcome="superseded")
    assert [row[name] for name in ("observed_at", "group_count", "added", "removed")] == (
        [None] * 4
    )
    assert row["http_status"] == 200


def test_the_poll_after_a_superseded_one_is_compared_with_the_latest_state(
    history: "History",
) -> None:
    other = Store(history.database, owner="second")
    history.observe(0, history.group("a"))
    stale = history.claim(59)
    history.write(history.poll(60, history.group("b")), history.claim(60, store=other), store=other)
    history.write(history.poll(61, history.group("a", "2.00")), stale)

    # Compared with the other's observation, "a" is missed a second time, and "b" is unchanged.
    assert history.observe(120, history.group("b")).removed == 1
    assert history.as_of(120) == {"b": history.group("b").contracts_limit}


def test_exactly_one_of_several_racing_polls_is_written(
    history: "History",
) -> None:
    history.observe(0, history.group("a"))
    head = history.claim(1)
    racers = 4
    ready = threading.Barrier(racers)
    written: list[WriteResult] = []

    def race(number: int) -> None:
        # Each racer has its own connection and lock, as a separate process would.
        database = Database(history.database.url.render_as_string(hide_password=False))
        poll = history.poll(60 + number, history.group(f"of {number}"))
        ready.wait()
        written.append(history.write(poll, head, store=Store(database, owner=f"{number}")))
        database.close()

    threads = [threading.Thread(target=race, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(each.outcome for each in written) == ["ok"] + ["superseded"] * 3
    assert len(history.rows("polls")) == 1 + racers
    assert history.row("accounts")["version"] == 2
    assert len(history.as_of(64)) == 2


def test_spooled_polls_are_written_only_once(history: "History") -> None:
    polls = [
        history.poll(0, history.group("a")),
        history.poll(60, outcome="timeout"),
        history.poll(120, history.group("a", "2.00")),
    ]
    first = [history.write(poll, None) for poll in polls]
    before = everything(history)

    assert [history.write(poll, None) for poll in polls] == first
    assert everything(history) == before
    assert len(before["polls"]) == 3


def test_spooled_polls_may_be_the_first_of_an_account(history: "History") -> None:
    assert history.write(history.poll(0, outcome="unreachable"), None).outcome == "unreachable"
    assert history.write(history.poll(60, history.group("a")), None).added == 1


def test_spooled_polls_are_superseded_by_a_later_observation(
    history: "History",
) -> None:
    history.observe(0, history.group("a"))
    waiting = history.poll(60, history.group("b"))
    history.observe(120, history.group("a"))
    before = everything(history, "polls")

    assert history.write(waiting, None) == SUPERSEDED
    assert history.write(waiting, None) == SUPERSEDED
    assert everything(history, "polls") == before
    assert len(history.rows("polls")) == 3


def test_spooled_polls_are_superseded_by_an_observation_at_the_same_instant(
    history: "History",
) -> None:
    waiting = history.poll(60, history.group("b"))
    history.observe(59.998)  # the start of the waiting poll

    assert history.write(waiting, None) == SUPERSEDED


def test_spooled_failures_do_not_count_after_a_later_observation(
    history: "History",
) -> None:
    waiting = history.poll(60, outcome="unauthorized")
    history.observe(120, history.group("a"))
    history.write(waiting, None)

    assert history.claim(180).refused_polls == 0
    assert history.row("accounts")["failed_polls"] == 0
    assert history.rows("gap_outcomes") == []


def test_a_spooled_digest_counts_only_if_it_is_that_of_the_latest_response(
    history: "History",
) -> None:
    history.observe(0, history.group("a"), digest="one")
    same = history.poll(60, digest="one", decoded=False)
    another = history.poll(120, digest="two", decoded=False)

    assert history.write(same, None) == UNCHANGED
    assert history.write(another, None) == SUPERSEDED


def test_a_spooled_poll_waits_for_its_first_commit_to_finish(
    history: "History", monkeypatch: pytest.MonkeyPatch
) -> None:
    # The connection is lost during the commit. The poll goes to the spool and is drained while the
    # server is still committing. It must not be written a second time.
    history.observe(0, history.group("a"))
    poll = history.poll(60, history.group("a"))
    head = history.claim(59)
    committing, go_on = threading.Event(), threading.Event()
    other = Database(history.database.url.render_as_string(hide_password=False))
    real = other.engine.dialect.do_commit

    def slow(connection: Any) -> None:
        committing.set()
        go_on.wait(10)
        real(connection)

    monkeypatch.setattr(other.engine.dialect, "do_commit", slow)
    first = threading.Thread(
        target=history.write, args=(poll, head), kwargs={"store": Store(other, owner="lost")}
    )
    first.start()
    assert committing.wait(10)
    again: list[WriteResult] = []
    second = threading.Thread(target=lambda: again.append(history.write(poll, None)))
    second.start()
    second.join(0.3)
    go_on.set()
    first.join()
    second.join()
    other.close()

    assert again == [UNCHANGED]
    assert len(history.rows("polls")) == 2


def test_cached_snapshots_are_not_read_again(history: "History") -> None:
    history.observe(0, history.group("a"))
    with recorded_statements() as sent:
        history.observe(60, history.group("a", "2.00"))
    assert not any("extra" in each and each.startswith("SELECT") for _, each in sent)


def test_a_history_whose_head_was_lost_continues(history: "History") -> None:
    history.observe(0, history.group("a"), history.group("b"))
    with history.database.transaction() as connection:
        for table in (schema.accounts, schema.coverage):
            connection.execute(delete(table))
    history.store = Store(history.database, owner="second")
    history.observe(60, history.group("a", "2.00"), history.group("b"))
    history.observe(120, history.group("a", "2.00"), history.group("b"))

    assert [
        (row["order_group_id"], row["contracts_limit"], row["begin_reason"], row["end_reason"])
        for row in history.rows("order_group_snapshots")
    ] == [
        ("a", Decimal("10.00"), "found", "changed"),
        ("a", Decimal("2.00"), "changed", None),
        ("b", Decimal("10.00"), "found", None),
    ]


def test_cached_snapshots_are_not_used_after_another_exporters_poll(history: "History") -> None:
    other = Store(history.database, owner="second")
    history.observe(0, history.group("a"))
    history.write(
        history.poll(60, history.group("a", "2.00")),
        history.claim(60, store=other),
        store=other,
    )
    assert history.observe(120, history.group("a")).changed == 1


def test_cached_snapshots_are_not_used_after_a_failed_transaction(history: "History") -> None:
    history.observe(0, history.group("a"))
    head = history.claim(59)

    def fail(_connection: Any) -> None:
        raise KeyboardInterrupt

    event.listen(history.database.engine, "commit", fail)
    with pytest.raises(KeyboardInterrupt):
        history.write(history.poll(60, history.group("b")), head)
    event.remove(history.database.engine, "commit", fail)

    assert history.observe(61, history.group("a", "2.00"), history.group("b")) == WriteResult(
        outcome="ok", group_count=2, added=1, changed=1, removed=0
    )


def test_cached_snapshots_are_not_used_after_a_backup_was_restored(history: "History") -> None:
    history.observe(0, history.group("a"), digest="one")
    backup = {name: history.rows(name) for name in TABLES}
    history.observe(60, history.group("a", "2.00"), digest="two")
    with history.database.transaction() as connection:
        for name in TABLES:
            table = schema.metadata.tables[name]
            connection.execute(delete(table))
            if backup[name]:
                connection.execute(table.insert(), backup[name])

    # The head has the same version as before the restore, but the groups differ.
    history.observe_the_same(61)
    assert history.observe(120, history.group("a", "2.00"), digest="two").changed == 1


def test_clock_steps_back_give_instants_that_still_increase(history: "History") -> None:
    history.observe(3600, history.group("a"))
    history.observe(0, history.group("a", "2.00"))
    history.observe(1, history.group("a", "3.00"))

    tick = timedelta(microseconds=1)
    assert [row["valid_from"] for row in history.rows("order_group_snapshots")] == [
        history.at(3600) + number * tick for number in range(3)
    ]
    assert [row["observed_at"] for row in history.rows("polls")] == [
        history.at(3600) + number * tick for number in range(3)
    ]


def test_clock_steps_back_confirm_no_removal_too_early(history: "History") -> None:
    history.confirm_removal = 3
    history.observe(3600, history.group("a"))
    assert history.observe(0).removed == 0
    assert history.observe(1).removed == 0
    assert history.observe(2).removed == 1


def test_clock_steps_forward_give_failures_to_one_gap_only(history: "History") -> None:
    history.observe(0, history.group("a"))
    history.fail(86_400, "unauthorized")  # as happens while the clock is wrong
    history.observe(600, history.group("a"))
    history.observe(1200, history.group("a"))

    assert [row["cause"] for row in history.rows("coverage_gaps")] == [
        "unauthorized",
        "not_running",
    ]


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_the_cost_of_an_unchanged_poll_is_constant(history: "History", warm: bool) -> None:
    costs = []
    for groups, polls in [(10, 1), (1_000, 1), (1_000, 200)]:
        _empty(history)
        history.store = Store(history.database, owner="first")
        history.observe(0, *(history.group(f"{number:04}") for number in range(groups)))
        for number in range(1, polls + 1):
            history.observe_the_same(60 * number)
        if not warm:
            history.store = Store(history.database, owner="second")
        before = rows_written(history.source)
        with recorded_statements() as sent:
            history.observe_the_same(60 * (polls + 1))
        costs.append((sent, rows_written(history.source) - before))

    assert costs[0] == costs[1] == costs[2]
    sent, rows = costs[0]
    writing = [each for _, each in sent if each.startswith(("INSERT", "UPDATE", "DELETE", "WITH"))]
    assert len(writing) == (5 if history.database.is_sqlite else 2)
    # The rows are the claim, the poll, the head, and the stretch of coverage.
    assert rows == 4


@pytest.mark.parametrize("groups", [10, 1_000])
def test_a_reordered_response_writes_one_row_more(history: "History", groups: int) -> None:
    some = [history.group(f"{number:04}") for number in range(groups)]
    history.observe(0, *some)
    before = rows_written(history.source)
    history.observe(60, *reversed(some))
    rows = rows_written(history.source) - before

    assert rows == 5  # the four of an unchanged poll, and the new digest


def test_the_cost_of_a_changed_poll_is_proportional_to_the_changes(history: "History") -> None:
    costs = {}
    for groups in (100, 1_000):
        for changes in (1, 11):
            _empty(history)
            history.store = Store(history.database, owner="first")
            some = [history.group(f"{number:04}") for number in range(groups)]
            history.observe(0, *some)
            changed = [history.group(group.id, "2.00") for group in some[:changes]]
            before = rows_written(history.source)
            history.observe(60, *changed, *some[changes:])
            costs[groups, changes] = rows_written(history.source) - before

    assert costs[100, 1] == costs[1_000, 1]
    assert costs[100, 11] == costs[1_000, 11] == costs[100, 1] + 10 * 2


def _empty(history: "History") -> None:
    with history.database.transaction() as connection:
        for table in schema.metadata.tables.values():
            connection.execute(delete(table))


_WRITE = """
def act(database):
    at = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    groups = {name: OrderGroup(name, True, "2.00") for name in "abx"}
    poll = Poll(
        account="main", started_at=at, finished_at=at + timedelta(seconds=1), outcome="ok",
        attempts=1, observation=Observation(observed_at=at, digest="new", groups=groups),
    )
    store = Store(database, owner="victim")
    head = store.claim("main", now=at, lease=1.0)
    store.write(poll, head=head, interval=60.0, confirm_removal=1)
"""
_IMPORTS = """
from datetime import UTC, datetime, timedelta
from exporter.history.store import Store
from exporter.model import Observation, OrderGroup, Poll
"""


def test_a_process_killed_at_any_statement_leaves_a_whole_poll_or_nothing(
    tmp_path: Path,
    history_of: Callable[[Database], "History"],
    killed_at_each_statement: Callable[[Path, str, str], list[Path]],
) -> None:
    template = tmp_path / "order_groups"
    database = Database(f"sqlite:///{template}")
    migrate(database)
    history = history_of(database)
    history.observe(0, *(history.group(name) for name in "abcd"))
    unclaimed = dict.fromkeys(("polled_at", "claimed_by", "claimed_until"))
    before = everything(history, "accounts")
    head = history.row("accounts") | unclaimed
    database.close()

    *killed, whole = killed_at_each_statement(template, _IMPORTS, _WRITE)

    for path in killed:
        database = Database(f"sqlite:///{path}")
        history = history_of(database)
        assert everything(history, "accounts") == before
        assert history.row("accounts") | unclaimed == head
        database.close()
    database = Database(f"sqlite:///{whole}")
    history = history_of(database)
    assert set(history.as_of(60)) == {"a", "b", "x"}
    assert len(history.rows("polls")) == 2
    database.close()
    assert len(killed) > 8  # the claim, the changes of a poll, and both commits


def test_an_account_that_another_exporter_polls_is_busy(history: "History") -> None:
    history.claim(0)
    with pytest.raises(BusyError, match=r"^another exporter"):
        history.claim(0.5, store=Store(history.database, owner="second"))


def test_the_error_about_missing_tables_is_one_line(empty_database: Database) -> None:
    with pytest.raises(DatabaseError, match=r"^database.*: .*accounts") as caught:
        Store(empty_database, owner="first").note_loss(
            "main", polls=1, last_started_at=datetime(2026, 1, 1, tzinfo=UTC)
        )
    assert "\n" not in str(caught.value)
    assert "INSERT" not in str(caught.value)


def test_preparing_happens_once(database: Database) -> None:
    calls: list[Database] = []
    store = Store(database, owner="first", prepare=calls.append)
    store.prepare()
    store.prepare()
    assert calls == [database]


def test_preparing_is_retried_after_a_failure(database: Database) -> None:
    results = iter([DatabaseError("away"), None])

    def prepare(_database: Database) -> None:
        error = next(results)
        if error is not None:
            raise error

    store = Store(database, owner="first", prepare=prepare)
    with pytest.raises(DatabaseError):
        store.prepare()
    store.prepare()
    store.prepare()


def test_cached_snapshots_are_not_used_for_a_replaced_file(
    sqlite_url: str, history_of: Callable[[Database], "History"], tmp_path: Path
) -> None:
    """Two files may have the same head but different states, for example after a repair."""
    with closing(Database(sqlite_url)) as database:
        assert database.path is not None
        migrate(database)
        history = history_of(database)
        history.observe(0, history.group("a"), history.group("b"))
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(database.path)) as live, closing(sqlite3.connect(copy)) as to:
            live.backup(to)
            to.execute("DELETE FROM order_group_snapshots WHERE order_group_id = 'b'")
            to.commit()
        copy.replace(database.path)
        with pytest.raises(DatabaseError, match="another file"):
            history.observe(60, history.group("a"), history.group("b"))
        written = history.observe(120, history.group("a"), history.group("b"))
        assert (written.added, written.changed, written.removed) == (1, 0, 0)


def test_a_running_exporter_does_not_recreate_a_deleted_database(sqlite_url: str) -> None:
    with closing(Database(sqlite_url)) as database:
        assert database.path is not None
        store = Store(database, owner="first", prepare=migrate_if_needed)
        store.claim("main", now=datetime(2026, 1, 1, tzinfo=UTC), lease=1.0)
        database.path.unlink()
        for _ in range(3):
            with pytest.raises(DatabaseError, match="the file is gone"):
                store.claim("main", now=datetime(2026, 1, 1, tzinfo=UTC), lease=1.0)
        assert not database.path.exists()
        database.path.write_text("not a database, or not yet")
        with pytest.raises(DatabaseError, match="not a SQLite database"):
            store.claim("main", now=datetime(2026, 1, 1, tzinfo=UTC), lease=1.0)
        database.path.unlink()
        with closing(Database(sqlite_url)) as other:
            migrate(other)
        store.claim("main", now=datetime(2026, 1, 1, tzinfo=UTC), lease=1.0)


def migrate_if_needed(database: Database) -> None:
    ensure_current(database, auto_migrate=True)


def test_a_write_also_returns_the_figures_that_summaries_need(history: "History") -> None:
    """`exporter.reading.figures` needs more than the poll's row has."""
    a, b, c = map(history.group, "abc")
    first = history.observe(0, a, b)
    assert (first.added, first.appeared, first.standing, first.missing) == (2, 0, 2, 0)
    second = history.observe(60, a, b, c)
    assert (second.added, second.appeared, second.standing, second.missing) == (1, 1, 3, 0)
    third = history.observe(120, a)
    assert (third.group_count, third.standing, third.missing) == (1, 3, 2)
    assert len(history.rows("order_groups_current")) == 3
    fourth = history.observe(180, a)
    assert (fourth.removed, fourth.standing, fourth.missing) == (2, 1, 0)
    same = history.observe_the_same(240)
    assert (same.appeared, same.standing, same.missing) == (0, 1, 0)
    assert history.fail(300).standing is None
