"""Runs two Patroni nodes and three etcd nodes on this machine, set up as docs/patroni.md says.

Each host of the page becomes an address of the loopback network, of which Linux has 16 million.
The page's files therefore run unchanged, except for addresses and directories.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import requests

from tests.support.recipes import recipe

# These are the binaries of the newest Postgres installed; the page names Debian 12's version.
_BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql"))
_PATIENCE = 60.0  # seconds
# Postgres refuses to run as root; Debian's package creates this user.
_USER = "postgres" if os.geteuid() == 0 else None

HOSTS = ("a", "b", "c")
PASSWORD = "password-of-postgres"


def missing() -> str | None:
    """Return the command that installs what this machine lacks; None if it lacks nothing."""
    commands = {
        "etcd-server": shutil.which("etcd"),
        "patroni": shutil.which("patroni"),
        "postgresql": shutil.which("initdb", path=str(_BINARIES)),
    }
    packages = sorted(name for name, path in commands.items() if path is None)
    return f"apt-get install {' '.join(packages)}" if packages else None


class Cluster:
    """The hosts of the page.

    Args:
        directory: holds the data, settings and logs of all hosts.
        timings: seconds that replace the page's `ttl`, `loop_wait` and `retry_timeout`; None keeps
            the page's values.
    """

    def __init__(self, directory: Path, *, timings: tuple[int, int, int] | None = None) -> None:
        self._directory = directory
        self._timings = timings
        self._network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, host: str) -> str:
        """Return the address of a host."""
        return f"{self._network}.{HOSTS.index(host) + 1}"

    def adapted(self, text: str) -> str:
        """Return a text of the page with the addresses of this cluster."""
        # Connections to any loopback address come from 127.0.0.1, so the whole network is allowed.
        text = text.replace("10.0.0.0/24", "127.0.0.0/8")
        return text.replace("10.0.0.", f"{self._network}.")

    def start_etcd(self, host: str) -> None:
        """Start etcd on a host."""
        self._start(f"etcd-{host}", ["etcd"], self._etcd(host))

    def start_patroni(self, host: str) -> None:
        """Start Patroni on a host, which starts Postgres."""
        self._start(f"patroni-{host}", ["/usr/bin/patroni", str(self._patroni(host))], {})

    def _etcd(self, host: str) -> dict[str, str]:
        text = recipe("patroni.md", "sh etcd")
        *own, cluster, token = text.splitlines()
        own = [self._of_host(line, host) for line in own]
        lines = self.adapted("\n".join([*own, cluster, token])).splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        settings["ETCD_DATA_DIR"] = str(self._directory / f"etcd-{host}")
        return settings

    def _patroni(self, host: str) -> Path:
        text = recipe("patroni.md", "yaml patroni")
        keys = ("name", "listen", "connect_address")
        lines = [
            self._of_host(line, host) if line.strip().startswith(keys) else line
            for line in text.splitlines()
        ]
        text = self.adapted("\n".join(lines))
        own = self._directory / host
        own.mkdir(exist_ok=True)
        if _USER is not None:
            shutil.chown(own, _USER)
        for place in ("/var/lib/postgresql", "/var/run/postgresql"):
            text = text.replace(place, str(own))
        text = text.replace("/usr/lib/postgresql/15/bin", str(_BINARIES))
        names = ("ttl", "loop_wait", "retry_timeout")
        for name, seconds in zip(names, self._timings or (), strict=False):
            text = re.sub(rf"{name}: \d+", f"{name}: {seconds}", text)
        path = own / "config.yml"
        path.write_text(text)
        path.chmod(0o600)
        if _USER is not None:
            shutil.chown(path, _USER)
        return path

    @staticmethod
    def _of_host(line: str, host: str) -> str:
        """Return a line of host a's file, adapted to another host."""
        line = re.sub(r"(NAME=|^name: )a$", rf"\g<1>{host}", line)
        return line.replace("10.0.0.1:", f"10.0.0.{HOSTS.index(host) + 1}:")

    def _start(self, name: str, command: list[str], env: dict[str, str]) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                user=_USER,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self._directory)} | env,
            )

    def kill_postmaster(self, host: str) -> None:
        """Kill the main Postgres process of a host; its backends then end by themselves."""
        if (postmaster := self._postmaster(host)) is not None:
            os.kill(postmaster, signal.SIGKILL)

    def kill(self, host: str) -> None:
        """Kill everything on a host, as a power failure would."""
        self._end(f"patroni-{host}")
        self.kill_postmaster(host)
        self._end(f"etcd-{host}")

    def close(self) -> None:
        """Kill everything that was started."""
        for host in HOSTS:
            self.kill(host)
        for name in self._processes:
            self._end(name)

    def _postmaster(self, host: str) -> int | None:
        """Return the id of a host's main Postgres process; None if it does not run."""
        data = self._directory / host / "kalshi"
        # The file outlives its process, and another process may have the id by now.
        with suppress(FileNotFoundError):
            pid = int((data / "postmaster.pid").read_text().splitlines()[0])
            if str(data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def _end(self, name: str) -> None:
        process = self._processes.get(name)
        if process is not None:
            process.kill()
            process.wait()

    def ask(self, host: str, query: str, *, database: str = "postgres") -> object:
        """Run a query on a host, and return the first column of its first row."""
        with psycopg.connect(
            host=self.address(host),
            user="postgres",
            password=PASSWORD,
            dbname=database,
            connect_timeout=2,
            autocommit=True,
        ) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds, and fail with the text `what` if it takes too long."""
        until = time.monotonic() + _PATIENCE
        while True:
            with suppress(psycopg.OperationalError):
                if condition():
                    return
            if time.monotonic() > until:
                logs = (
                    f"{path.name}:\n{path.read_text()[-1500:]}"
                    for path in sorted(self._directory.glob("*.log"))
                )
                pytest.fail(f"not in {_PATIENCE:.0f} s: {what}\n" + "\n".join(logs))
            time.sleep(0.1)

    def is_primary(self, host: str) -> bool:
        """Return whether a host's Postgres accepts writes."""
        return self.ask(host, "SELECT NOT pg_is_in_recovery()") is True

    def primary(self) -> str | None:
        """Return the host whose Postgres accepts writes; None if there is none."""
        for host in HOSTS[:2]:
            with suppress(psycopg.OperationalError):
                if self.is_primary(host):
                    return host
        return None

    def has_successor(self) -> bool:
        """Return whether there is a primary, and a synchronous standby that may take over."""
        primary = self.primary()
        if primary is None:
            return False
        # Patroni is asked rather than Postgres, because etcd must know of the standby too.
        with suppress(requests.RequestException):
            found = requests.get(f"http://{self.address(primary)}:8008/cluster", timeout=2).json()
            return any(member["role"] == "sync_standby" for member in found["members"])
        return False


@contextmanager
def run_cluster(*, timings: tuple[int, int, int] | None = None) -> Iterator[Cluster]:
    """Start the hosts of the page, and yield once a or b is primary and the other can take over."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-patroni-"))
    if _USER is not None:
        shutil.chown(directory, _USER)
    cluster = Cluster(directory, timings=timings)
    try:
        for host in HOSTS:
            cluster.start_etcd(host)
        for host in HOSTS[:2]:
            cluster.start_patroni(host)
        cluster.wait(cluster.has_successor, "a primary, and a standby that may take over")
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory, ignore_errors=True)
