"""Look up a host and connect to it, inside one deadline."""

import queue
import socket
import threading
from collections.abc import Sequence
from typing import Any

from exporter.clock import elapsed

Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]
"""What `socket.getaddrinfo` returns."""


def look_up(host: str, port: int, ends_at: float) -> Addresses:
    """Return the addresses of a host.

    Args:
        host: a name or an address, without brackets.
        port: of the server.
        ends_at: the deadline, by `elapsed()`.

    Raises:
        socket.gaierror: there are none.
        TimeoutError: the name service did not respond in time.
        UnicodeError: the host cannot be a name.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name, not an address: ask the name service
    results: queue.SimpleQueue[Addresses | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            results.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  # the waiting thread raises it
            results.put(error)

    # The C library's lookup ignores deadlines and cannot be interrupted: a thread may be left
    # behind in it until the resolver's own timeout or the end of the process.
    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    try:
        result = results.get(timeout=max(ends_at - elapsed(), 0.001))
    except queue.Empty:
        raise TimeoutError(f"the name lookup of {host} did not end in time") from None
    if isinstance(result, Exception):
        raise result
    return result


def connect(addresses: Addresses, ends_at: float) -> socket.socket:
    """Return a socket connected to the first address that responds, with the time that remains.

    Args:
        addresses: of the host, tried in this order.
        ends_at: the deadline, by `elapsed()`.

    Raises:
        OSError: the last address's failure; TimeoutError if the time is used up.
    """
    failure: OSError = TimeoutError("the connection could not be made in time")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # Each address gets an equal share of the remaining time. One that swallows packets, as
        # IPv6 does where it is half configured, then leaves time for the next.
        share = (ends_at - elapsed()) / (len(addresses) - index)
        if share <= 0:
            break
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:  # such as a machine without IPv6
            failure = error
            continue
        try:
            candidate.settimeout(share)
            candidate.connect(address)
            candidate.settimeout(max(ends_at - elapsed(), 0.001))
        except OSError as error:
            candidate.close()
            failure = error
        else:
            return candidate
    raise failure
