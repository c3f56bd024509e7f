"""A database that is silent is waited for by one thread, and by nobody else."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from exporter.database.circuit_breaker import CircuitBreaker
from exporter.errors import DatabaseError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.database.circuit_breaker._LONG", 0.02)
    monkeypatch.setattr("exporter.database.circuit_breaker._PAUSE", 0.02)


class Server:
    """What a thread of its own asks: silent until it is told to speak."""

    def __init__(self) -> None:
        self.speaks = threading.Event()
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1
        if not self.speaks.is_set():
            raise DatabaseError(f"still silent, the {self.asked}. time")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def silence(server: Server) -> Iterator[CircuitBreaker]:
    with closing(CircuitBreaker(server.ask)) as made:
        yield made


def fail(silence: CircuitBreaker, *, after: float, cause: Exception | None = None) -> None:
    def use() -> None:
        with silence.guard():
            time.sleep(after)
            raise DatabaseError("first") from cause

    with pytest.raises(DatabaseError, match="first"):
        use()


def wait_until_it_speaks(silence: CircuitBreaker) -> None:
    for _ in range(500):
        try:
            silence.check()
        except DatabaseError:
            time.sleep(0.01)
        else:
            return
    pytest.fail("still silent after five seconds")


def test_once_waited_for_in_vain_it_is_away_for_all_until_it_answers(
    silence: CircuitBreaker, server: Server
) -> None:
    fail(silence, after=0.05)
    for _ in range(3):
        with pytest.raises(DatabaseError, match=r"first|still silent"), silence.guard():
            pytest.fail("nobody else waits")
    server.speaks.set()
    wait_until_it_speaks(silence)
    with silence.guard():
        pass
    asked = server.asked
    time.sleep(0.1)
    assert server.asked == asked


def test_what_is_refused_at_once_may_be_tried_again_at_once(
    silence: CircuitBreaker, server: Server
) -> None:
    fail(silence, after=0.0)
    fail(silence, after=0.0)
    assert server.asked == 0


def test_what_the_server_says_of_one_statement_is_no_silence(
    silence: CircuitBreaker, server: Server
) -> None:
    timed_out = Exception()
    timed_out.orig = SimpleNamespace(sqlstate="57014")  # type: ignore[attr-defined]  # as SQLAlchemy's has
    fail(silence, after=0.05, cause=timed_out)
    silence.check()
    assert server.asked == 0
