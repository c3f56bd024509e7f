"""Follow docs/systemd.md, upgrading.md and backup.md word for word on a booted Debian.

    sudo .venv/bin/python soak/systemd.py
    sudo .venv/bin/python soak/systemd.py --tree /var/tmp/bookworm    # keeps the Debian

The program needs root, debootstrap, systemd-nspawn, pip's index, and five minutes. It makes a
Debian 12, boots it with systemd as its first process and no network but loopback, starts the local
exchange in it, and runs each block of the pages as a user with sudo, or as an analyst. It exits 1
at the first block that fails, or that does not do what its page says.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.recipes import ROOT, recipe

PACKAGES = "systemd,systemd-sysv,dbus,python3-venv,ca-certificates,sqlite3,sudo,git,openssl"
CLONE = "/home/olivia/kalshi-exporter"
CONFIG = "/etc/kalshi-exporter/config.toml"
DATABASE = "/var/lib/kalshi-exporter/order_groups.db"
KEY_ID = "a952bcbe-ec3b-4b5b-b8f9-11dae589608c"
NEW_VERSION, NEW_REVISION = "9.9.9", "9000"

EXCHANGE = f"""
import itertools, pathlib, time
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from exporter.demo.exchange import Exchange

key = load_pem_private_key(pathlib.Path("/root/kalshi.pem").read_bytes(), None)
with Exchange() as exchange:
    exchange.register({KEY_ID!r}, key.public_key())
    pathlib.Path("/run/exchange").write_text(exchange.base_url)
    for number in itertools.count():
        exchange.groups({KEY_ID!r}).create(f"group-{{number}}")
        time.sleep(2)
"""

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{new}", "{old}"


def upgrade() -> None:
    op.add_column("polls", sa.Column("of_the_next_version", sa.Integer))
"""


class Machine:
    """A booted Debian.

    Args:
        tree: its root directory.
        leader: the process id of its init on this machine.
    """

    def __init__(self, tree: Path, leader: int) -> None:
        self.tree = tree
        self._leader = leader

    def run(self, text: str, *, user: str = "root", cwd: str = "/", fails: bool = False) -> str:
        """Run shell commands; all of them must succeed.

        Args:
            text: the commands, one a line.
            user: the user who runs them, in a login shell.
            cwd: the directory to run them in.
            fails: whether the commands must fail instead.

        Returns:
            Their output to stdout and stderr.
        """
        script = self.tree / "var" / "tmp" / "block.sh"
        script.write_text(text)
        enter = [
            "nsenter",
            f"--target={self._leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
        ]
        command = f"cd {shlex.quote(cwd)} && exec bash -eu /var/tmp/block.sh"
        done = subprocess.run(
            [*enter, "--root", "--wdns=/", "runuser", "--login", user, "--command", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        if (done.returncode != 0) is not fails:
            sys.exit(f"FAILED as {user}, exit code {done.returncode}:\n{text}\n{done.stdout}")
        return done.stdout

    def block(self, page: str, kind: str, *, user: str = "olivia", cwd: str = CLONE) -> str:
        """Run a block of a page unchanged."""
        began = time.monotonic()
        output = self.run(recipe(page, kind), user=user, cwd=cwd)
        say(f"ok  {page}, {kind!r}, as {user}: {time.monotonic() - began:.1f} s\n")
        return output

    def wait_for(self, command: str, wanted: Callable[[str], bool], what: str) -> str:
        """Repeat a command until its output is as wanted, for up to a minute."""
        until = time.monotonic() + 60
        while not wanted(output := self.run(f"{command} || true")):
            if time.monotonic() > until:
                sys.exit(f"FAILED: no {what} within a minute:\n{output}")
            time.sleep(0.5)
        return output

    def polls(self) -> int:
        """Return how many successful polls the database has."""
        query = "SELECT count(*) FROM polls WHERE outcome = 'ok'"
        return int(self.run(f'sqlite3 -readonly {DATABASE} "{query}"'))

    def wait_for_polls(self) -> None:
        """Wait for two more polls of the daemon."""
        wanted = self.polls() + 2
        query = f"sqlite3 -readonly {DATABASE} \"SELECT count(*) FROM polls WHERE outcome = 'ok'\""
        self.wait_for(query, lambda output: int(output or 0) >= wanted, "polls")


def say(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def expect(condition: object, what: str, output: str) -> None:
    """Exit if a promise of a page does not hold."""
    if not condition:
        sys.exit(f"FAILED: {what}:\n{output}")


def make_tree(tree: Path) -> None:
    """Make a small Debian 12 with everything that docs/systemd.md requires."""
    if not (tree / "usr" / "bin" / "systemctl").exists():
        say("making a Debian 12 …\n")
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tree],
            stdout=subprocess.DEVNULL,
            check=True,
        )


def collect_wheels(directory: Path, *, extras: Sequence[str]) -> None:
    """Collect the wheels of all dependencies with this Python's pip.

    Args:
        directory: the directory for the wheels.
        extras: the extras of pyproject.toml to include.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requirements = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras:
        requirements += project["project"]["optional-dependencies"][extra]
    command = ["-m", "pip", "wheel", "--quiet", f"--wheel-dir={directory}", *requirements]
    subprocess.run([sys.executable, *command], stderr=subprocess.DEVNULL, check=True)


def furnish(tree: Path, wheels: Path) -> None:
    """Add the users, the clone with its origin, the key, and pip's wheels instead of an index."""
    collect_wheels(wheels, extras=("postgres", "metrics"))
    (tree / "etc" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    origin = tree / "srv" / "origin"
    shutil.rmtree(origin, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, origin / name, follow_symlinks=False)
    (tree / "root" / "exchange.py").write_text(EXCHANGE)


FURNISH = f"""
# Remove what an earlier run left in a kept tree.
systemctl disable --quiet --now kalshi-exporter.service kalshi-exporter-once.timer || true
systemctl stop kalshi-exporter-once.service || true
for user in olivia alice; do
  id $user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash $user
done
echo 'olivia ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/olivia
rm -rf /opt/kalshi-exporter /etc/kalshi-exporter /var/lib/kalshi-exporter {CLONE}
rm -f /usr/local/bin/kalshi-exporter
gpasswd --delete alice kalshi-exporter >/dev/null 2>&1 || true
userdel kalshi-exporter 2>/dev/null || true
openssl genpkey -algorithm ed25519 -out /root/kalshi.pem
git config --system user.name test
git config --system user.email test@example.com
git config --system safe.directory '*'
cd /srv/origin
git init --quiet --initial-branch=main
git add --all --force
git commit --quiet --message 'this version'
git tag --force v0.1.0
git clone --quiet /srv/origin {CLONE}
cp /root/kalshi.pem {CLONE}/kalshi.pem
chown -R olivia: {CLONE}
"""


@contextmanager
def booted(tree: Path, wheels: Path) -> Iterator[Machine]:
    """Boot the tree, and power it off at the end."""
    with open(tree / "var" / "log" / "console", "wb") as console:  # noqa: PTH123  # a Popen's
        container = subprocess.Popen(
            [
                *("systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--private-network"),
                *(f"--directory={tree}", f"--bind-ro={wheels}:/wheels", "--console=pipe"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + 60
            children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
            while True:
                found = children.read_text().split() if container.poll() is None else []
                if found:
                    machine = Machine(tree, int(found[0]))
                    asked = machine.run("systemctl is-system-running || true")
                    if asked.strip() in {"running", "degraded"}:
                        break
                if container.poll() is not None or time.monotonic() > until:
                    sys.exit(f"FAILED: the Debian does not boot; its console log is {console.name}")
                time.sleep(0.5)
            yield machine
        finally:
            container.terminate()
            try:
                container.wait(60)
            except subprocess.TimeoutExpired:
                container.kill()
                container.wait()


def follow(machine: Machine) -> None:
    """Install, start, read and reload, as docs/systemd.md says."""
    machine.run(FURNISH)
    machine.block("systemd.md", "sh install")
    machine.run(
        "systemd-run --quiet --unit=exchange /opt/kalshi-exporter/bin/python /root/exchange.py"
    )
    url = machine.wait_for("cat /run/exchange", lambda output: "http" in output, "exchange").strip()
    # The page edits the file with sudoedit; the interval becomes two seconds to save time.
    for old, new in (
        ('environment = "production"', f'base_url = "{url}"'),
        ("put-your-key-id-here", KEY_ID),
        ('interval = "60s"', 'interval = "2s"'),
    ):
        machine.run(
            f"grep -q {shlex.quote(old)} {CONFIG}; sed -i {shlex.quote(f's|{old}|{new}|')} {CONFIG}"
        )

    output = machine.block("systemd.md", "sh check")
    expect("FAIL" not in output and "groups from" in output, "check passes", output)
    output = machine.block("systemd.md", "sh start")
    expect("active (running)" in output, "the daemon runs", output)
    machine.wait_for_polls()
    output = machine.run("systemctl status --no-pager kalshi-exporter")
    expect("last success" in output, "the status line has the last success", output)

    machine.block("systemd.md", "sh root")
    expect_files(machine, "olivia", CLONE)
    refused = machine.run(f"sqlite3 -readonly {DATABASE} .tables", user="alice", fails=True)
    expect("unable to open" in refused, "other users may read nothing at first", refused)
    machine.block("systemd.md", "sh allow")
    output = machine.block("systemd.md", "sh analyst", user="alice", cwd="/home/alice")
    expect("main" in output and "Traceback" not in output, "an analyst sees the status", output)
    expect_files(machine, "alice", "/home/alice")
    for private in ("cat /etc/kalshi-exporter/kalshi.pem", f"rm {DATABASE}", f"touch {CONFIG}"):
        machine.run(private, user="alice", fails=True)

    reload(machine)


def keep(machine: Machine) -> None:
    """Prune, back up, restore, upgrade and go back, and replace the daemon with the timer."""
    output = machine.block("systemd.md", "sh prune")
    expect("polls from before" in output, "prune says what it dropped", output)

    output = machine.block("backup.md", "sh sqlite-backup")
    expect("ok" in output, "the copy is complete", output)
    machine.wait_for_polls()
    machine.block("backup.md", "sh sqlite-restore")
    machine.wait_for_polls()
    expect_owner(machine)
    machine.run("rm /var/lib/kalshi-exporter/order_groups.backup.db")
    machine.block("backup.md", "sh sqlite-backup-python")
    machine.block("systemd.md", "sh allow")

    release(machine)
    output = machine.block("upgrading.md", "sh upgrade")
    expect(f" to {NEW_REVISION}" in output, "migrate names the new revision", output)
    machine.wait_for_polls()
    expect(NEW_VERSION in machine.run("kalshi-exporter --version"), "it is the new version", output)
    machine.block("systemd.md", "sh analyst", user="alice", cwd="/home/alice")
    machine.block("upgrading.md", "sh downgrade")
    machine.wait_for_polls()
    expect_owner(machine)

    machine.run("systemctl stop kalshi-exporter")
    output = machine.block("systemd.md", "sh root")
    before = machine.polls()
    machine.run("systemctl start kalshi-exporter-once.service")
    expect(machine.polls() == before + 1, "the oneshot unit polls once", output)
    machine.run("systemctl enable --now kalshi-exporter-once.timer")
    query = f"sqlite3 -readonly {DATABASE} 'SELECT count(*) FROM polls'"
    until = time.monotonic() + 100
    while machine.polls() < before + 2:
        expect(time.monotonic() < until, "the timer starts it", machine.run(query))
        time.sleep(1)


def reload(machine: Machine) -> None:
    """Reload a good configuration, a faulty one, and the corrected one."""
    machine.block("systemd.md", "sh reload")
    machine.run(f"cp -p {CONFIG} /root/config.toml; echo 'nonsense = 1' >> {CONFIG}")
    machine.block("systemd.md", "sh reload")
    status = "systemctl status --no-pager kalshi-exporter"
    output = machine.wait_for(status, lambda output: "reload failed at" in output, "failed reload")
    expect("active (running)" in output, "the daemon continues", output)
    machine.wait_for_polls()
    machine.run(f"cp -p /root/config.toml {CONFIG}")
    machine.block("systemd.md", "sh reload")
    machine.wait_for(status, lambda output: "reload failed at" not in output, "successful reload")


def release(machine: Machine) -> None:
    """Publish a newer version, with a migration, in the clone's origin."""
    origin = machine.tree / "srv" / "origin"
    version, schema = origin / "exporter" / "__init__.py", origin / "exporter/history/schema.py"
    (old,) = (line for line in schema.read_text().splitlines() if line.startswith("REVISION"))
    revision = old.split('"')[1]
    schema.write_text(schema.read_text().replace(f'"{revision}"', f'"{NEW_REVISION}"'))
    (line,) = (each for each in version.read_text().splitlines() if each.startswith("__version__"))
    version.write_text(version.read_text().replace(line, f'__version__ = "{NEW_VERSION}"'))
    migration = MIGRATION.format(new=NEW_REVISION, old=revision)
    (origin / "migrations" / "versions" / "9000_next.py").write_text(migration)
    machine.run("cd /srv/origin; git add --all; git commit --quiet --message 'next version'")


def expect_files(machine: Machine, user: str, directory: str) -> None:
    """Check that the export and the report exist and are complete."""
    output = machine.run("head -n 1 changes.csv; tail -n 1 report.html", user=user, cwd=directory)
    expect(
        output.startswith("account,") and "</html>" in output,
        "the export and the report are complete",
        output,
    )


def expect_owner(machine: Machine) -> None:
    """Check that the service's user owns the database."""
    output = machine.run(f"stat --format='%U:%G' {DATABASE}")
    expect(
        output == "kalshi-exporter:kalshi-exporter\n",
        "the service's user owns the database",
        output,
    )


def main() -> None:
    """Parse the command line, boot a Debian, and follow the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--tree", type=Path, help="a directory that keeps the Debian for later runs"
    )
    given: Path | None = parser.parse_args().tree
    missing = [name for name in ("debootstrap", "systemd-nspawn") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        sys.exit(f"needs root and {', '.join(missing) or 'nothing else'}")
    with tempfile.TemporaryDirectory(prefix="exporter-systemd-") as directory:
        tree, wheels = given or Path(directory, "tree"), Path(directory, "wheels")
        make_tree(tree)
        furnish(tree, wheels)
        with booted(tree, wheels) as machine:
            say(machine.run("systemctl --version | head -n 1; python3 --version"))
            follow(machine)
            keep(machine)
    say("everything works as the pages say\n")


if __name__ == "__main__":
    main()
