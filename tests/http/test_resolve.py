"""Looking up a host and connecting to it, on real sockets, within a deadline."""

import socket
import threading
from collections.abc import Iterator

import pytest

from exporter.clock import elapsed
from exporter.http.resolve import Addresses, connect, look_up


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Yield a socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """Yield the address of a server that swallows new connections: its backlog is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield listening.getsockname()
        for each in waiting:
            each.close()


def addresses(*of: tuple[str, int]) -> Addresses:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in of]


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_an_address_needs_no_name_service(
    host: str, family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object, **__: object) -> threading.Thread:
        raise AssertionError("the name service was asked")

    monkeypatch.setattr(threading, "Thread", no_thread)
    [(found, _, _, _, address)] = look_up(host, 443, elapsed() + 1)
    assert (found, address[:2]) == (family, (host, 443))


def test_a_name_is_looked_up() -> None:
    assert "127.0.0.1" in {each[4][0] for each in look_up("localhost", 80, elapsed() + 30)}


def test_a_lookup_that_hangs_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def hang(host: str, _port: int, **options: object) -> Addresses:
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(host)
        done.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(TimeoutError, match=r"the name lookup of exchange\.example did not end"):
        look_up("exchange.example", 443, elapsed() + 0.05)
    done.set()


def test_what_the_name_service_says_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *_: object, **__: object) -> Addresses:
        raise socket.gaierror(-2, f"{host}: Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        look_up("nowhere.example", 443, elapsed() + 30)


def test_the_first_address_that_responds_is_taken(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = closed.getsockname()
    with connect(addresses(gone, server.getsockname()), elapsed() + 30) as connection:
        assert connection.getpeername() == server.getsockname()
        timeout = connection.gettimeout()
    assert timeout is not None
    assert 0 < timeout <= 30


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    server: socket.socket, full: tuple[str, int]
) -> None:
    began = elapsed()
    with connect(addresses(full, server.getsockname()), began + 1.0) as connection:
        assert connection.getpeername() == server.getsockname()
    assert elapsed() - began >= 0.4  # its share of the time


def test_the_last_failure_is_raised(full: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = closed.getsockname()
    with pytest.raises(ConnectionRefusedError):
        connect(addresses(gone, gone), elapsed() + 30)
    with pytest.raises(TimeoutError):
        connect(addresses(full), elapsed() + 0.1)
    with pytest.raises(TimeoutError, match="could not be made in time"):
        connect(addresses(gone), elapsed() - 1)
