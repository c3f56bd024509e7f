"""Test the spool on a real disk: order, bounds, privacy, and its errors."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import SpoolError
from exporter.model import Observation, OrderGroup, Poll
from exporter.spool.spool import Loss, Spool

MEBIBYTE = 2**20
START = datetime(2026, 11, 1, 12, tzinfo=UTC)


@contextmanager
def opened(
    directory: Path, *, max_size: int = MEBIBYTE, database: str = "sqlite:///a.db"
) -> Iterator[Spool]:
    with closing(Spool(directory, max_size, database=database)) as spool:
        yield spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with opened(tmp_path / "spool") as spool:
        yield spool


def succeeded(
    minute: int, digest: str, *groups: OrderGroup, known: bool = False, account: str = "main"
) -> Poll:
    started_at = START + timedelta(minutes=minute)
    return Poll(
        account=account,
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=2),
        outcome="ok",
        attempts=1,
        http_status=200,
        clock_skew_ms=-3,
        observation=Observation(
            observed_at=started_at + timedelta(seconds=1),
            digest=digest,
            groups=None if known else {group.id: group for group in groups},
        ),
    )


def failed(minute: int) -> Poll:
    started_at = START + timedelta(minutes=minute)
    return Poll(
        account="main",
        started_at=started_at,
        finished_at=started_at,
        outcome="server_error",
        attempts=4,
        error_message="no \u2603",
    )


def waiting(spool: Spool, account: str = "main") -> list[Poll]:
    return [poll for _number, poll in spool.polls(account)]


def emptied(spool: Spool, account: str = "main") -> list[Poll]:
    polls = []
    for number, poll in spool.polls(account):
        polls.append(poll)
        spool.remove(account, number)
    return polls


def test_polls_come_back_in_order_with_the_responses_that_they_share(tmp_path: Path) -> None:
    a, b = OrderGroup("a", True, "10.00"), OrderGroup("b", False)
    polls = [succeeded(1, "x", a), failed(2), succeeded(3, "y", a, b), succeeded(4, "x", a)]
    with opened(tmp_path) as spool:
        for poll in polls:
            spool.put(poll)
        # An observation that the spool already holds is stored as its digest alone.
        assert spool.known_digest("main") == "x"
        spool.put(succeeded(5, "x", known=True))
    with opened(tmp_path) as spool:
        assert spool.pending() == {"main": 5}
        assert emptied(spool) == [*polls, succeeded(5, "x", a)]
        assert spool.pending() == {}
        assert spool.known_digest("main") is None
    with closing(sqlite3.connect(tmp_path / "spool.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM answers").fetchone() == (0,)


def test_a_digest_without_its_response_is_not_known(spool: Spool) -> None:
    # The database knew that response, but went away before the poll was written.
    spool.put(succeeded(1, "x", known=True))
    assert spool.known_digest("main") is None
    assert waiting(spool) == [succeeded(1, "x", known=True)]


GROUPS = st.builds(
    OrderGroup,
    id=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256),
    is_auto_cancel_enabled=st.booleans(),
    contracts_limit=st.none()
    | st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    exchange_index=st.none() | st.integers(-(2**63), 2**63 - 1),
    extra=st.none() | st.sampled_from(['{"a":"\\u0000"}', '{"n":1e400}', '{"n":0.10}']),
)


@given(groups=st.lists(GROUPS, max_size=20, unique_by=lambda group: group.id))
def test_every_response_comes_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, groups: list[OrderGroup]
) -> None:
    with opened(tmp_path_factory.mktemp("spool")) as spool:
        spool.put(succeeded(1, "x", *groups))
        (poll,) = waiting(spool)
    assert poll == succeeded(1, "x", *groups)
    assert poll.observation is not None
    # Equal decimals may differ in their digits.
    assert repr(poll.observation.groups) == repr({group.id: group for group in groups})


def test_accounts_and_databases_are_separate(tmp_path: Path) -> None:
    one, other = succeeded(1, "x"), succeeded(2, "x", account="other")
    with (
        opened(tmp_path) as spool,
        opened(tmp_path, database="postgresql://host/b") as elsewhere,
        closing(Spool(tmp_path, MEBIBYTE)) as onlooker,
    ):
        spool.put(one)
        spool.put(other)
        elsewhere.put(failed(3))
        assert spool.pending() == {"main": 1, "other": 1}
        assert elsewhere.pending() == {"main": 1}
        assert onlooker.pending() == {"main": 2, "other": 1}
        assert elsewhere.known_digest("main") is None
        assert emptied(elsewhere) == [failed(3)]
        assert waiting(spool) == [one]
        assert waiting(spool, "other") == [other]


def test_no_other_user_can_read_the_spool(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with opened(tmp_path / "a" / "spool") as spool:
            spool.put(failed(1))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "spool" / "spool.db").stat().st_mode) == 0o600


def test_reading_creates_no_file(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        assert (spool.pending(), waiting(spool), spool.loss("main")) == ({}, [], None)
        assert spool.known_digest("main") is None
        spool.forget_loss("main")
    assert not (tmp_path / "spool").exists()


def test_an_unchanged_response_costs_a_few_hundred_bytes(spool: Spool, tmp_path: Path) -> None:
    groups = [OrderGroup(os.urandom(16).hex(), True) for _ in range(1_000)]
    path = tmp_path / "spool" / "spool.db"
    spool.put(succeeded(0, "x", *groups))
    before = path.stat().st_size
    for minute in range(1, 201):
        spool.put(succeeded(minute, "x", known=True))
    assert path.stat().st_size - before < 200 * 600


def test_a_full_spool_keeps_the_oldest_within_its_size_and_counts_the_rest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.db"
    with opened(tmp_path) as spool:
        kept = 0
        for minute in count():
            group = OrderGroup("a", True, extra=os.urandom(40_000).hex())
            try:
                spool.put(succeeded(minute, str(minute), group))
            except SpoolError:
                break
            kept += 1
        assert 10 < kept < 50
        with pytest.raises(
            SpoolError, match=r"has reached spool\.max_size and keeps what it holds"
        ):
            spool.put(
                succeeded(kept + 1, "larger", OrderGroup("b", True, extra=os.urandom(10**6).hex()))
            )
        assert path.stat().st_size <= MEBIBYTE
        loss = Loss(polls=2, last_started_at=START + timedelta(minutes=kept + 1))
        assert spool.loss("main") == loss
    with opened(tmp_path) as spool:
        # Another process sees the loss too, until it is forgotten.
        assert spool.loss("main") == loss
        spool.forget_loss("main")
        assert spool.loss("main") is None
        polls = emptied(spool)
        assert [poll.started_at for poll in polls] == [
            START + timedelta(minutes=minute) for minute in range(kept)
        ]
        # The emptied spool has room again.
        spool.put(succeeded(kept + 2, "z", OrderGroup("a", True, extra="0" * 10_000)))
        assert len(waiting(spool)) == 1


def test_a_process_remembers_what_a_broken_disk_lost(tmp_path: Path) -> None:
    # A file in the directory's place stops even root.
    (tmp_path / "spool").write_text("")
    with opened(tmp_path / "spool") as spool:
        for minute in (1, 2):
            with pytest.raises(SpoolError, match=str(tmp_path)):
                spool.put(failed(minute))
        assert spool.loss("main") == Loss(polls=2, last_started_at=START + timedelta(minutes=2))
        assert spool.loss("other") is None
        spool.forget_loss("main")
        assert spool.loss("main") is None


def test_a_file_that_is_no_spool_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_text("a poem, four times as long as it would have to be to look like a database")
    before = path.read_bytes()
    with opened(tmp_path) as spool:
        for use in (lambda: spool.put(failed(1)), spool.pending, lambda: waiting(spool)):
            with pytest.raises(SpoolError, match="file is not a database"):
                use()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE polls SET poll = '{}'",
        "UPDATE polls SET poll = 'nonsense'",
        "UPDATE answers SET groups = x'00'",
    ],
)
def test_an_unreadable_poll_is_kept_and_reported(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as spool:
        spool.put(succeeded(1, "x", OrderGroup("a", True)))
        with closing(sqlite3.connect(tmp_path / "spool.db")) as connection, connection:
            connection.execute(damage)
        with pytest.raises(SpoolError, match="cannot read, and keeps it"):
            waiting(spool)
        assert spool.pending() == {"main": 1}


def test_two_exporters_may_drain_at_the_same_time(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        for minute in range(4):
            one.put(succeeded(minute, "x", OrderGroup("a", True)))
        mine, others = one.polls("main"), other.polls("main")
        for number, _ in mine:
            also, _ = next(others)
            assert also == number
            one.remove("main", number)
            other.remove("main", number)
        assert next(others, None) is None
        assert one.pending() == {}
