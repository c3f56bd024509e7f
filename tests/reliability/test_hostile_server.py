"""Test `run-once`, in a process of its own, against hostile servers.

`pytest -s` shows the figures.
"""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soak.witness import record_of

if TYPE_CHECKING:
    from tests.conftest import KeyPair

_DEADLINE = 2.0  # seconds
_LIMIT = 4 * 1024 * 1024  # bytes of a response
_MEMORY = _LIMIT + 100 * 1024 * 1024  # bytes over what a normal poll takes
_LINE = 2_100  # characters of a log line, its timestamp included

Behavior = Callable[[socket.socket], None]

_HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"
_OK = _HEAD % 200
_ANSI = "\x1b[31mred\x1b]0;title\x07\r\nforged line\x00\u202e\u2066\x85\u2028"


def _whole(body: bytes, *, status: int = 200, more: bytes = b"") -> Behavior:
    head = _HEAD % status + more + b"Content-Length: %d\r\n\r\n" % len(body)
    return lambda connection: connection.sendall(head + body)


def _endless(start: bytes, again: bytes, *, pause: float = 0.0) -> Behavior:
    """Send `start`, then `again` over and over until the client hangs up."""
    gone = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        while not gone.wait(pause):
            connection.sendall(again)

    return behave


def _bomb() -> bytes:
    squeezed = zlib.compressobj(9, wbits=31)
    block = b" " * 1024 * 1024
    return b"".join([*(squeezed.compress(block) for _ in range(400)), squeezed.flush()])


_GROUP = b'{"id":"%s","is_auto_cancel_enabled":true%s}'
_BOMB = _bomb()
_KIB = 1024

# Each behavior has the exit codes that are right for it.
_BEHAVIORS: dict[str, tuple[Behavior, set[int]]] = {
    "silence": (_endless(b"", b"", pause=60.0), {69}),
    "header dripped": (_endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause=0.05), {69}),
    "body dripped": (_endless(_OK + b"Content-Length: 9999\r\n\r\n", b" ", pause=0.05), {69}),
    "endless header": (_endless(_OK, b"X-A: " + b"a" * 1000 + b"\r\n"), {69}),
    "endless header line": (_endless(_OK + b"X-A: ", b"a" * 65536), {69}),
    "endless status line": (_endless(b"HTTP/1.1 200 ", b"a" * 65536), {69}),
    "endless interim responses": (_endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500), {69}),
    "endless body": (_endless(_OK + b"\r\n", b" " * 65536), {65}),
    "endless chunks": (
        _endless(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 5000),
        {65, 69},
    ),
    "endless chunk line": (
        _endless(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 65536),
        {65, 69},
    ),
    "endless trailer": (
        _endless(_OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"a" * 999 + b"\r\n"),
        {65, 69},
    ),
    "gzip bomb": (_whole(_BOMB, more=b"Content-Encoding: gzip\r\n"), {65}),
    "gzip bomb in an error": (_whole(_BOMB, status=500, more=b"Content-Encoding: gzip\r\n"), {69}),
    "gzip in gzip": (
        _whole(gzip.compress(_BOMB, mtime=0), more=b"Content-Encoding: gzip, gzip\r\n"),
        {65},
    ),
    "another encoding": (_whole(b"x", more=b"Content-Encoding: br\r\n"), {65}),
    "broken gzip": (_whole(b"\x1f\x8b\x08garbage", more=b"Content-Encoding: gzip\r\n"), {65}),
    "deep arrays": (_whole(b'{"order_groups":' + b"[" * 500_000), {65}),
    "deep objects": (_whole(b'{"a":' * 150_000), {65}),
    "a deep group": (
        _whole(
            b'{"order_groups":[' + _GROUP % (b"a", b',"x":' + b"[" * 99999 + b"]" * 99999) + b"]}"
        ),
        {65},
    ),
    "many numbers": (_whole(b'{"order_groups":[],"x":[' + b"10," * 1_300_000 + b"1]}"), {65}),
    "many elements": (_whole(b'{"order_groups":[' + b"1," * 1_100_000 + b"1]}"), {65}),
    "many names": (_whole(b'{"order_groups":[],' + b'"a":1,' * 600_000 + b'"b":1}'), {65}),
    "a huge integer": (
        _whole(
            b'{"order_groups":[' + _GROUP % (b"a", b',"contracts_limit":' + b"9" * 900_000) + b"]}"
        ),
        {65},
    ),
    "a huge string": (_whole(b'{"order_groups":[' + _GROUP % (b"a" * 900_000, b"") + b"]}"), {65}),
    "a huge error": (_whole(b'{"message":"' + b"m" * 5_000_000 + b'"}', status=500), {69}),
    "an endless error": (_endless(_HEAD % 500 + b"\r\n", b"x" * 65536), {69}),
    # The exchange refuses credentials in JSON: anything else comes from something in front of it.
    "an endless refusal": (_endless(_HEAD % 401 + b"\r\n", b"x" * 65536), {69}),
    "an error to forge lines": (
        _whole(
            json.dumps(
                dict.fromkeys(["code", "message", "details", "service"], _ANSI * 99)
            ).encode(),
            status=400,
        ),
        {69},
    ),
    "a refusal to forge lines": (_whole(_ANSI.encode() * 99, status=403), {69}),
    "an id to forge lines": (
        _whole(b'{"order_groups":[' + _GROUP % (json.dumps(_ANSI).encode()[1:-1], b"") + b"]}"),
        {65},
    ),
    "keys to forge lines": (_whole(json.dumps({_ANSI * 99: 1}).encode()), {65}),
    "a header to forge lines": (
        lambda connection: connection.sendall(b"HTTP/1.1 200 \x1b[31m\x00\r\n\x1b: \x00\r\n\r\n"),
        {65, 69},
    ),
    "no HTTP": (_endless(b"\x00\xff" * 99, b"\x1b[2J" * 9999), {69}),
    "a redirect away": (_whole(b"", status=302, more=b"Location: http://127.0.0.1:9/\r\n"), {69}),
    "contradicting lengths": (_whole(b"{}", more=b"Content-Length: 99\r\n"), {65, 69}),
    "a reset": (lambda connection: connection.close(), {69}),
    "invalid UTF-8": (_whole(b'{"order_groups":[' + _GROUP % (b"\xff\xfe", b"") + b"]}"), {65}),
    "cut off": (_whole(b'{"order_groups":[', more=b""), {65}),
    "pages without end": (
        _whole(b'{"order_groups":[],"cursor":"round and round"}'),
        {65},
    ),
}


@contextmanager
def _server(behave: Behavior) -> Iterator[str]:
    """Serve one behavior to every request, and yield the base URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while b"\r\n\r\n" in connection.recv(65536):
                behave(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/trade-api/v2"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


# A child's peak memory starts at its parent's size, so a small parent starts the exporter.
_LAUNCHER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=sys.stderr)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@dataclass(frozen=True)
class _Run:
    code: int
    peak: int
    lines: list[str]


class _Place:
    """A directory of configurations, each with its own database and all with one key."""

    def __init__(self, directory: Path, key: "KeyPair") -> None:
        self._directory = directory
        self._key = key
        self._numbers = count()

    def config(
        self, base_url: str, name: str, *, limit: int = _LIMIT, deadline: float = _DEADLINE
    ) -> Path:
        place = self._directory / f"{next(self._numbers)}"
        place.mkdir(exist_ok=True)
        path = place / "config.toml"
        path.write_text(
            f"""
            [poll]
            deadline = "{deadline}s"
            max_attempts = 2
            max_response_size = "{limit // _KIB}KiB"
            [[accounts]]
            name = "main"
            base_url = "{base_url}"
            key_id = "{self._key.key_id}"
            private_key_file = "{self._key.private_key_file}"
            # {name}
            """
        )
        return path

    def poll(self, config: Path) -> _Run:
        done = subprocess.run(
            [sys.executable, "-c", _LAUNCHER, sys.executable, "-m", "exporter", "--config", config,
             "--log-level", "ERROR", "run-once"],
            capture_output=True, timeout=120, check=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        code, peak = done.stdout.split()
        return _Run(int(code), int(peak), done.stderr.decode("utf-8").splitlines())


_HARMLESS = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]*")


def test_a_hostile_server_costs_a_deadline_bounded_memory_and_one_line(
    key_pair: "KeyPair", tmp_path: Path
) -> None:
    place = _Place(tmp_path, key_pair)
    with _server(_whole(b'{"order_groups":[' + _GROUP % (b"a", b"") + b"]}")) as base_url:
        normal = place.poll(place.config(base_url, "normal"))
    assert normal.code == 0

    def faults(name: str) -> tuple[list[str], float, int]:
        # A poll that is late only because the machine is busy is on time when it is repeated.
        for _ in range(3):
            found, took, peak = tried(name)
            if took <= _DEADLINE + 1:
                break
        return found, took, peak

    def tried(name: str) -> tuple[list[str], float, int]:
        behave, codes = _BEHAVIORS[name]
        with _server(behave) as base_url:
            config = place.config(base_url, name)
            run = place.poll(config)
        recorded = record_of(f"sqlite:///{config.parent / 'order_groups.db'}")
        (poll,) = recorded.polls
        took = (poll["finished_at"] - poll["started_at"]).total_seconds()
        found = []
        if run.code not in codes:
            found.append(f"{name}: exit {run.code}: {run.lines}")
        if took > _DEADLINE + 1:
            found.append(f"{name}: took {took:.1f} s")
        if run.peak - normal.peak > _MEMORY:
            found.append(f"{name}: {(run.peak - normal.peak) / 1e6:.0f} MB over a normal poll")
        if run.code and not (
            len(run.lines) == 1 and len(run.lines[0]) <= _LINE and _HARMLESS.fullmatch(run.lines[0])
        ):
            found.append(f"{name}: not one harmless line: {run.lines}")
        if recorded.snapshots or (run.code and recorded.coverage):
            found.append(f"{name}: changed the history")
        return found, took, run.peak - normal.peak

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(faults, _BEHAVIORS))

    sys.stdout.write(
        f"{len(results)} behaviors: slowest poll {max(took for _, took, _ in results):.2f} s of"
        f" {_DEADLINE} s, most memory {max(peak for *_, peak in results) / 1e6:.1f} MB over a"
        f" normal poll's {normal.peak / 1e6:.1f} MB\n"
    )
    assert [fault for found, _, _ in results for fault in found] == []


_DEFAULT_LIMIT = 64 * 1024 * 1024  # bytes


@pytest.mark.parametrize(
    ("more", "path"), [(b"", "fast"), (b',"new":null', "strict")], ids=["fast", "strict"]
)
def test_the_largest_valid_response_takes_bounded_memory(
    key_pair: "KeyPair", tmp_path: Path, more: bytes, path: str
) -> None:
    place = _Place(tmp_path, key_pair)
    groups = 210_000
    ids = (b"%06d" % each + b"x" * 250 for each in range(groups))
    body = b'{"order_groups":[' + b",".join(_GROUP % (each, more) for each in ids) + b"]}"
    assert 0.9 * _DEFAULT_LIMIT < len(body) < _DEFAULT_LIMIT
    with _server(_whole(b"{}")) as base_url:
        normal = place.poll(place.config(base_url, "normal"))

    with _server(_whole(body)) as base_url:
        config = place.config(base_url, path, limit=_DEFAULT_LIMIT, deadline=60.0)
        run = place.poll(config)

    (poll,) = record_of(f"sqlite:///{config.parent / 'order_groups.db'}").polls
    sys.stdout.write(f"{path} path: {(run.peak - normal.peak) / 1e6:.0f} MB over a normal poll\n")
    assert (run.code, poll["group_count"]) == (0, groups)
    assert run.peak - normal.peak <= _DEFAULT_LIMIT + 100 * 1024 * 1024
