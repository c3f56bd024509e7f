"""Build the image and run it as a cluster would, against the local exchange.

    sudo .venv/bin/python soak/container.py
    sudo .venv/bin/python soak/container.py --tree /var/tmp/bookworm   # no registry: see below

The program needs root, podman with runc or crun, and a few minutes. Each container has a read-only
root and /tmp, no capabilities, a user unknown to the image, and a key that belongs to root, with
mode 440 and one of the container's groups. With --tree, the base image is the Debian in that
directory, where `soak/systemd.py --tree` has left it, and pip installs wheels that this Python's
pip has collected. The program exits 1 at the first difference from docs/containers.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exporter.demo.exchange import Exchange
from soak.systemd import collect_wheels, expect, say
from tests.support.recipes import ROOT

IMAGE, BASE = "localhost/kalshi-exporter-soak", "localhost/kalshi-exporter-soak-base"
KEY_ID = "a952bcbe-ec3b-4b5b-b8f9-11dae589608c"
USER, GROUP = 4242, 5000  # unknown to the image

CONFIGURATION = """
[database]
url = "sqlite:////data/order_groups.db"

[poll]
interval = "1s"

[spool]
directory = "/data/spool"

[metrics]
listen = "127.0.0.1:19464"

[[accounts]]
name = "main"
base_url = "{url}"
key_id = "{key_id}"
private_key_file = "/run/secrets/kalshi.pem"
"""

CONFINED = (
    *("--network=host", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", f"--user={USER}", f"--group-add={GROUP}"),
    *("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"),
)


class Engine:
    """Podman, with the options and mounts that all containers share.

    Args:
        runtime: the OCI runtime that starts the containers.
        directory: the directory with `config.toml` and `kalshi.pem`.
    """

    def __init__(self, runtime: str, directory: Path) -> None:
        self._runtime = runtime
        self._mounts = (
            f"--volume={directory}/config.toml:/etc/kalshi-exporter/config.toml:ro",
            f"--volume={directory}/kalshi.pem:/run/secrets/kalshi.pem:ro",
            "--volume=kalshi-exporter-soak:/data",
        )

    def podman(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run podman, and require this exit code."""
        command = ["podman", f"--runtime={self._runtime}", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=1800, check=False, cwd=ROOT
        )
        output = f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        expect(done.returncode == code, f"exit code {done.returncode}, not {code}", output)
        return done

    def run(
        self, *command: str, options: Sequence[str] = (), code: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of the exporter's commands in its own container."""
        # Without systemd, podman complains about health checks on the container's stderr.
        confined = (*CONFINED, "--no-healthcheck", *self._mounts, *options)
        return self.podman("run", "--rm", *confined, IMAGE, *command, code=code)

    @contextmanager
    def daemon(self) -> Iterator[str]:
        """Run the daemon for as long as the block lasts, and yield its container's name."""
        name = "kalshi-exporter-soak"
        self.podman("run", "--detach", f"--name={name}", *CONFINED, *self._mounts, IMAGE)
        try:
            yield name
        finally:
            subprocess.run(["podman", "rm", "--force", name], capture_output=True, check=False)


def build(engine: Engine, tree: Path | None, directory: Path) -> None:
    """Build the image on the Containerfile's base image, or on the Debian in `tree`."""
    options = []
    if tree is not None:
        say("making the base image …\n")
        excluded = [f"--exclude=./{name}/*" for name in ("proc", "sys", "dev", "run", "tmp")]
        with subprocess.Popen(
            ["tar", "--create", f"--directory={tree}", *excluded, "."], stdout=subprocess.PIPE
        ) as tar:
            subprocess.run(
                ["podman", "import", "--quiet", "-", BASE],
                stdin=tar.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        wheels = directory / "wheels"
        collect_wheels(wheels, extras=("postgres", "metrics", "parquet"))
        (directory / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        options = [
            *(f"--build-arg=PYTHON={BASE}", f"--volume={wheels}:/wheels:ro"),
            f"--volume={directory}/pip.conf:/etc/pip.conf:ro",
        ]
    say("building …\n")
    began = time.monotonic()
    engine.podman(
        *("build", "--isolation=chroot", "--network=host", "--layers=false", "--format=docker"),
        *(*options, "--file=deploy/containers/Containerfile", f"--tag={IMAGE}", "."),
    )
    say(f"ok  the Containerfile builds: {time.monotonic() - began:.0f} s\n")


def wait_for(wanted: Callable[[], bool], what: str) -> None:
    """Wait for a condition, for up to a minute."""
    until = time.monotonic() + 60
    while not wanted():
        expect(time.monotonic() < until, f"no {what} within a minute", "")
        time.sleep(0.2)


def judge(engine: Engine, exchange: Exchange) -> None:
    """Check that the image does what docs/containers.md says."""
    output = engine.run("--log-format", "text", "check").stdout
    expect("FAIL" not in output and "1 groups from" in output, "check passes", output)
    say("ok  check, as an unknown user, with root's key of mode 440\n")

    done = engine.run("run-once")
    expect(done.stdout == "", "the log leaves stdout alone", done.stdout)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    expect("poll_ok" in events, "run-once logs JSON to stderr", done.stderr)
    engine.run("--help", options=("--env=HOME=/nonexistent",))
    say("ok  run-once: JSON on stderr, nothing on stdout\n")

    with engine.daemon() as name:
        asked = len(exchange.requests)
        wait_for(lambda: len(exchange.requests) > asked + 2, "polls")
        engine.podman("healthcheck", "run", name)
        for command in ("touch /tmp/x", "touch /x", "touch /opt/x"):
            engine.podman("exec", name, "sh", "-c", command, code=1)
        table = engine.podman("exec", name, "kalshi-exporter", "export", "history").stdout
        expect(table.startswith("account,"), "export prints a table", table)
        page = engine.podman("exec", name, "kalshi-exporter", "report", "-o", "-").stdout
        expect(page.rstrip().endswith("</html>"), "report prints a page", page[-200:])
        python = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:19464/livez').status)"
        )
        interpreter = "/opt/kalshi-exporter/bin/python3"
        alive = engine.podman("exec", name, interpreter, "-c", python).stdout
        expect(alive == "200\n", "/livez answers", alive)
        say("ok  daemon: healthy, root and /tmp read-only, export, report, /livez\n")
        began = time.monotonic()
        engine.podman("stop", "--time=20", name)
        took = time.monotonic() - began
        code = engine.podman("inspect", "--format={{.State.ExitCode}}", name).stdout
        expect(code == "0\n" and took < 10, f"SIGTERM ends it, after {took:.1f} s", code)
        say(f"ok  SIGTERM ends the daemon with 0, after {took:.1f} s\n")


def main() -> None:
    """Parse the command line, build the image, and check it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tree", type=Path, help="the directory of a Debian for the base image")
    runtime = "runc" if shutil.which("runc") else "crun"
    parser.add_argument("--runtime", default=runtime, help="default: %(default)s")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("podman"):
        sys.exit("needs root and podman")
    with tempfile.TemporaryDirectory(prefix="exporter-container-") as name, Exchange() as exchange:
        directory = Path(name)
        engine = Engine(arguments.runtime, directory)
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = directory / "kalshi.pem"
        path.write_bytes(pem)
        os.chown(path, 0, GROUP)
        path.chmod(0o440)
        exchange.register(KEY_ID, key.public_key())
        exchange.groups(KEY_ID).create("a")
        text = CONFIGURATION.format(url=exchange.base_url, key_id=KEY_ID)
        (directory / "config.toml").write_text(text)
        (directory / "config.toml").chmod(0o644)
        build(engine, arguments.tree, directory)
        try:
            judge(engine, exchange)
        finally:
            for kind in (("volume", "rm", "kalshi-exporter-soak"), ("rmi", IMAGE)):
                subprocess.run(["podman", *kind, "--force"], capture_output=True, check=False)
    say("everything works as the page says\n")


if __name__ == "__main__":
    main()
