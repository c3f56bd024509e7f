"""Two nodes under Patroni and three of etcd, set up as docs/patroni.md says, on this machine.

Each host of the page is an address of the loopback network, which Linux has 16 million of; so the
page's files run as they stand there, but for addresses and directories.
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

# Of Debian's newest Postgres here; the page names Debian 12's.
_BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql"))
_PATIENCE = 60.0  # seconds
# Postgres refuses to be root; Debian's package brings the user along.
_USER = "postgres" if os.geteuid() == 0 else None

HOSTS = ("a", "b", "c")
PASSWORD = "password-of-postgres"


def missing() -> str | None:
    """Return what this machine lacks, and how to install it; None if it lacks nothing."""
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
        directory: for everything.
        hurry: seconds that replace the page's `ttl`, `loop_wait` and `retry_timeout`; None to
            leave them as they are.
    """

    def __init__(self, directory: Path, *, hurry: tuple[int, int, int] | None = None) -> None:
        self._directory = directory
        self._hurry = hurry
        self._network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, host: str) -> str:
        """Return the address of a host."""
        return f"{self._network}.{HOSTS.index(host) + 1}"

    def adapted(self, text: str) -> str:
        """Return a text of the page with the addresses of this cluster."""
        # The loopback network knows one sender alone, whatever address it sends to.
        text = text.replace("10.0.0.0/24", "127.0.0.0/8")
        return text.replace("10.0.0.", f"{self._network}.")

    def start_etcd(self, host: str) -> None:
        """Start etcd on a host."""
        self._start(f"etcd-{host}", ["etcd"], self._etcd(host))

    def start_patroni(self, host: str) -> None:
        """Start Patroni on a host, and with it Postgres."""
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
        for name, seconds in zip(names, self._hurry or (), strict=False):
            text = re.sub(rf"{name}: \d+", f"{name}: {seconds}", text)
        path = own / "config.yml"
        path.write_text(text)
        path.chmod(0o600)
        if _USER is not None:
            shutil.chown(path, _USER)
        return path

    @staticmethod
    def _of_host(line: str, host: str) -> str:
        """Return a line of a's file as it is in another host's."""
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
        """Kill a host's Postgres, and nothing else of it; its backends end by themselves."""
        if (postmaster := self._postmaster(host)) is not None:
            os.kill(postmaster, signal.SIGKILL)

    def kill(self, host: str) -> None:
        """Kill everything on a host, as when its power goes."""
        self._end(f"patroni-{host}")
        self.kill_postmaster(host)
        self._end(f"etcd-{host}")

    def close(self) -> None:
        """End everything that was started."""
        for host in HOSTS:
            self.kill(host)
        for name in self._processes:
            self._end(name)

    def _postmaster(self, host: str) -> int | None:
        """Return the process id of a host's Postgres; None if it does not run."""
        data = self._directory / host / "kalshi"
        # The file outlives its process, whose id may be another's by now.
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
        """Return the one value that a query gives on a host."""
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
        """Return once a condition holds."""
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
        """Whether a host's Postgres takes writes."""
        return self.ask(host, "SELECT NOT pg_is_in_recovery()") is True

    def primary(self) -> str | None:
        """Return the host whose Postgres takes writes; None if there is none."""
        for host in HOSTS[:2]:
            with suppress(psycopg.OperationalError):
                if self.is_primary(host):
                    return host
        return None

    def has_successor(self) -> bool:
        """Whether there is a primary, and a standby that may take over: it has everything."""
        primary = self.primary()
        if primary is None:
            return False
        # Not Postgres' word for it: etcd has to know it too.
        with suppress(requests.RequestException):
            found = requests.get(f"http://{self.address(primary)}:8008/cluster", timeout=2).json()
            return any(member["role"] == "sync_standby" for member in found["members"])
        return False


@contextmanager
def run_cluster(*, hurry: tuple[int, int, int] | None = None) -> Iterator[Cluster]:
    """Start the hosts of the page; a or b is the primary, and the other may take over."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-patroni-"))
    if _USER is not None:
        shutil.chown(directory, _USER)
    cluster = Cluster(directory, hurry=hurry)
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
