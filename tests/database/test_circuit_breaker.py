"""After a database has timed out, one thread probes it, and every other caller fails fast."""

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
    """Shorten the breaker's times."""
    monkeypatch.setattr("exporter.database.circuit_breaker._LONG", 0.02)
    monkeypatch.setattr("exporter.database.circuit_breaker._PAUSE", 0.02)


class Server:
    """A database that the breaker probes; it is down until `is_up` is set."""

    def __init__(self) -> None:
        self.is_up = threading.Event()
        self.probes = 0

    def probe(self) -> None:
        self.probes += 1
        if not self.is_up.is_set():
            raise DatabaseError(f"still down at probe {self.probes}")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def breaker(server: Server) -> Iterator[CircuitBreaker]:
    with closing(CircuitBreaker(server.probe)) as made:
        yield made


def failed(cause: Exception | None = None) -> DatabaseError:
    """Return the error that a use of the database ended with."""
    error = DatabaseError("first")
    error.__cause__ = cause
    return error


def wait_until_closed(breaker: CircuitBreaker) -> None:
    """Wait until the breaker lets callers through."""
    for _ in range(500):
        try:
            breaker.check()
        except DatabaseError:
            time.sleep(0.01)
        else:
            return
    pytest.fail("the circuit is still open after five seconds")


def test_a_timeout_makes_everybody_fail_fast_until_a_probe_succeeds(
    breaker: CircuitBreaker, server: Server
) -> None:
    breaker.note(failed(), seconds=0.05)
    for _ in range(3):
        with pytest.raises(DatabaseError, match=r"first|still down"):
            breaker.check()
    server.is_up.set()
    wait_until_closed(breaker)
    breaker.check()
    probes = server.probes
    time.sleep(0.1)
    assert server.probes == probes


def test_a_quick_failure_does_not_open_the_circuit(breaker: CircuitBreaker, server: Server) -> None:
    breaker.note(failed(), seconds=0.0)
    breaker.note(failed(), seconds=0.0)
    assert server.probes == 0


def test_a_statement_timeout_of_the_server_does_not_open_the_circuit(
    breaker: CircuitBreaker, server: Server
) -> None:
    timed_out = Exception()
    timed_out.orig = SimpleNamespace(sqlstate="57014")  # type: ignore[attr-defined]  # as SQLAlchemy's has
    breaker.note(failed(timed_out), seconds=0.05)
    breaker.check()
    assert server.probes == 0


def test_a_probe_that_ends_in_an_unexpected_error_closes_the_circuit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _error: reported.set())

    def probe() -> None:
        raise NotImplementedError

    with closing(CircuitBreaker(probe)) as breaker:
        breaker.note(failed(), seconds=0.05)
        wait_until_closed(breaker)
        assert reported.wait(5)


def test_the_circuit_stays_closed_without_a_thread_that_probes(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as under a limit of tasks

    monkeypatch.setattr(threading.Thread, "start", refuse)
    breaker.note(failed(), seconds=0.05)
    breaker.check()
