"""A user who is not root gets from an empty home to recorded polls by following the README."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from exporter.demo.exchange import Exchange
from tests.conftest import KeyPair
from tests.support.recipes import ROOT

NOBODY = 65534
README = (ROOT / "README.md").read_text("utf-8")

_COPIED = ("exporter", "migrations", "deploy", "pyproject.toml", "hatch_build.py", "README.md")


def block(kind: str) -> str:
    """Return a block of the README, without the indentation of its list."""
    (found,) = re.findall(rf"^   ```sh {kind}\n(.*?)^   ```", README, re.DOTALL | re.MULTILINE)
    return re.sub("^   ", "", found, flags=re.MULTILINE)


def cron_line() -> tuple[dict[str, str], str]:
    """Return the variables of the README's crontab, and its command."""
    (crontab,) = re.findall(r"^```crontab\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    variables = dict(re.findall(r"^([A-Z]+)=(.*)$", crontab, re.MULTILINE))
    (command,) = re.findall(r"^\* \* \* \* \* (.*)$", crontab, re.MULTILINE)
    return variables, command


class Newcomer:
    """A user with a home directory and a clone, who is not root.

    Args:
        home: the home directory.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clone = home / "clone"

    def own(self, path: Path) -> None:
        """Make the newcomer the owner of a file or a directory."""
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)

    def run(
        self, shell: list[str], text: str, env: dict[str, str], cwd: Path
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script in a shell as the newcomer."""
        root = os.geteuid() == 0
        return subprocess.run(
            [*shell, text],
            cwd=cwd,
            env={"HOME": str(self.home), "LOGNAME": "newcomer"} | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
        )

    def follow(self, kind: str) -> str:
        """Run a block of the README in the clone, and return its output."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PIP_NO_CACHE_DIR": "1"}
        done = self.run(["bash", "-euc"], block(kind), pip | path, self.clone)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    """Yield a newcomer with a fresh home and a copy of the repository."""
    # pytest's own directory would not do, because no other user may enter it.
    with tempfile.TemporaryDirectory(prefix="exporter-newcomer-") as name:
        someone = Newcomer(Path(name))
        someone.clone.mkdir()
        for each in (*_COPIED, "LICENSE", "config.example.toml"):
            source, target = ROOT / each, someone.clone / each
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, symlinks=True, ignore=ignored)
            else:
                shutil.copy(source, target)
        for path in (someone.home, someone.clone, *someone.clone.rglob("*")):
            if not path.is_symlink():
                someone.own(path)
        probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        able = someone.run(["bash", "-c"], f"python3 -c '{probe}'", env, someone.home)
        if able.returncode != 0:
            pytest.skip(
                "SKIPPED LOUDLY: this system's own python3 is older than 3.11, or without"
                " venv (Debian: python3-venv)"
            )
        yield someone


def test_the_readme_leads_to_polls_by_cron(
    newcomer: Newcomer, exchange: Exchange, key_pair: KeyPair
) -> None:
    exchange.groups(key_pair.key_id).create("a")
    newcomer.follow("install")
    newcomer.follow("configure")
    # These steps stand for what the reader does in a browser and an editor.
    home = newcomer.home / "kalshi"
    shutil.copy(key_pair.private_key_file, home / "kalshi.pem")
    newcomer.own(home / "kalshi.pem")
    newcomer.follow("key")
    configuration = (home / "config.toml").read_text()
    for old, new in (
        ('environment = "production"', f'base_url = "{exchange.base_url}"'),
        ("put-your-key-id-here", key_pair.key_id),
    ):
        assert configuration.count(old) == 1
        configuration = configuration.replace(old, new, 1)
    (home / "config.toml").write_text(configuration)

    said = newcomer.follow("check")
    assert "1 groups from" in said
    assert "FAIL" not in said
    said = newcomer.follow("record")
    assert "main" in said

    # Cron runs the line in another directory, without a terminal, and with few variables.
    variables, command = cron_line()
    env = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"} | variables
    done = newcomer.run(["/bin/sh", "-c"], command, env, Path("/"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with closing(connect(home / "order_groups.db")) as connection:
        polls = connection.execute("SELECT outcome, group_count FROM polls").fetchall()
    assert polls == [("ok", 1), ("ok", 1)]
    assert len(exchange.requests) == 3  # one of `check`, two of `run-once`
    completion = newcomer.run(
        ["bash", "-c"],
        "_KALSHI_EXPORTER_COMPLETE=bash_complete COMP_WORDS='kalshi-exporter run' COMP_CWORD=1"
        ' "$HOME/kalshi-exporter/bin/kalshi-exporter"',
        {"PATH": "/usr/bin:/bin"},
        Path("/"),
    )
    assert completion.stdout == "plain,run-once\n", completion.stderr
