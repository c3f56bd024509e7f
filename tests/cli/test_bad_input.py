"""Every mistake of an operator is reported in one helpful line, and nothing is changed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from exporter.demo.exchange import Exchange
from tests.support.keys import pem

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig

PASSPHRASE = b"correct horse"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mistake, and the lines that report it.

    Attributes:
        says: for each line on stderr, in order, the texts that it must contain.
        config: arguments of `write_config` that put the mistake into a valid configuration.
        change: replacements in the text of the configuration file.
        command: the command's arguments.
        exit_code: the expected exit code.
    """

    says: tuple[tuple[str, ...], ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("run-once",)
    exit_code: int = 78


def key_file(name: str, **more: str) -> dict[str, Any]:
    return {"account": {"private_key_file": name, **more}}


CASES = {
    "several wrong keys and values": Case(
        config={
            "poll": {"intervall": "60s", "deadline": 20, "max_attempts": 0},
            "log": {"level": "LOUD"},
            "account": {"subacount": 0},
        },
        says=(
            ("poll.deadline = 20", "a duration", "how long one whole poll may take"),
            ("poll.intervall", 'did you mean "interval"?', "how often an account is polled"),
            ("poll.max_attempts = 0", "from 1 to 10"),
            ("log.level = 'LOUD'", '"DEBUG"', '"ERROR"'),
            ("accounts[0].subacount", 'did you mean "subaccount"?'),
        ),
    ),
    "an unknown section": Case(
        config={"metric": {"listen": "127.0.0.1:9464"}}, says=(('did you mean "metrics"?',),)
    ),
    "a file that is not TOML": Case(change={"[poll]": "[poll"}, says=(("not valid TOML", "line"),)),
    "no configuration": Case(
        command=("--config", "none.toml", "run-once"),
        says=(("none.toml", "no such file", "kalshi-exporter init"),),
    ),
    "no accounts": Case(
        change={"[[accounts]]": "[[others]]"}, says=(("others",), ("[[accounts]]",))
    ),
    "one name twice": Case(
        config={"more_accounts": [{"name": "MAIN"}]},
        says=(("accounts[1].name", "the same name as accounts[0]"),),
    ),
    "an unset variable": Case(
        config={"account": {"key_id": "${NOT_SET_ANYWHERE}"}},
        says=(("accounts[0].key_id", "environment variable NOT_SET_ANYWHERE is not set"),),
    ),
    "plain http to elsewhere": Case(
        config={"base_url": "http://192.0.2.1/trade-api/v2"},
        says=(("accounts[0].base_url", "must be https"),),
    ),
    "no key file": Case(
        config=key_file("missing.pem"),
        says=(("account main: ", "missing.pem", "No such file or directory"),),
    ),
    "a directory as key file": Case(
        config=key_file("a-directory"), says=(("a-directory is a directory",),)
    ),
    "a key that others can read": Case(
        config=key_file("open.pem"), says=(("open.pem can be read by others", "chmod 600"),)
    ),
    "a weak key": Case(
        config=key_file("weak.pem"), says=(("weak.pem", "1024 bits", "at least 2048"),)
    ),
    "an encrypted key without a passphrase": Case(
        config=key_file("locked.pem"),
        says=(("locked.pem is encrypted", "private_key_passphrase_file"),),
    ),
    "an encrypted key with the wrong passphrase": Case(
        config=key_file("locked.pem", private_key_passphrase_file="wrong.txt"),
        says=(("locked.pem does not open with the passphrase",),),
    ),
    "no passphrase file": Case(
        config=key_file("locked.pem", private_key_passphrase_file="missing.txt"),
        says=(("missing.txt", "the passphrase file", "No such file or directory"),),
    ),
    "a passphrase that others can read": Case(
        config=key_file("locked.pem", private_key_passphrase_file="open.txt"),
        says=(("open.txt can be read by others", "chmod 600"),),
    ),
    "a public key as key file": Case(
        config=key_file("public.pem"), says=(("public.pem holds a public key",),)
    ),
    "bad keys of two accounts": Case(
        config=key_file("weak.pem")
        | {"more_accounts": [{"name": "second", "private_key_file": "open.pem"}]},
        says=(("account main: ", "weak.pem"), ("account second: ", "open.pem")),
    ),
    "a text file as database": Case(
        config={"database_url": "sqlite:///poem.txt"},
        says=(("poem.txt is a file, but not a SQLite database",),),
    ),
    "a text file to migrate": Case(
        config={"database_url": "sqlite:///poem.txt"},
        command=("migrate",),
        says=(("poem.txt is a file, but not a SQLite database",),),
    ),
    "a newer schema": Case(
        config={"database_url": "sqlite:///newer.db"},
        says=(("revision 9999, newer than", "install"),),
    ),
    "a newer schema to migrate": Case(
        config={"database_url": "sqlite:///newer.db"},
        command=("migrate",),
        says=(("revision 9999, newer than", "install"),),
    ),
    "a newer schema for the daemon": Case(
        config={"database_url": "sqlite:///newer.db"},
        command=("daemon",),
        says=(("revision 9999, newer than", "install"),),
    ),
    "no schema, and auto_migrate is off": Case(
        config={"database": {"url": "sqlite:///empty.db", "auto_migrate": False}},
        says=(("has no tables yet", "auto_migrate is false", "kalshi-exporter migrate"),),
    ),
    "no database, and auto_migrate is off": Case(
        config={"database": {"url": "sqlite:///none.db", "auto_migrate": False}},
        says=(("has no tables yet", "auto_migrate is false", "kalshi-exporter migrate"),),
    ),
    "no database to prune": Case(
        config={"database_url": "sqlite:///none.db"},
        command=("prune", "--older-than", "1d"),
        says=(("has no tables yet, this version needs", ": run `kalshi-exporter migrate`"),),
    ),
    "a dangling link as database": Case(
        config={"database_url": "sqlite:///dangling.db"},
        command=("migrate",),
        says=(("dangling.db", "nowhere does not exist", "create it"),),
    ),
    "no directory for the database": Case(
        config={"database_url": "sqlite:///nowhere/order_groups.db"},
        says=(("nowhere does not exist", "create it"),),
    ),
    "a database in memory": Case(
        config={"database_url": "sqlite://"}, says=(("database.url", "must name a file"),)
    ),
    "MySQL": Case(
        config={"database_url": "mysql://root@localhost/kalshi"},
        says=(("database.url", "sqlite://", "postgresql://"),),
    ),
    "a missing file of certificate authorities": Case(
        command=("run-once",),
        config={"account": {"name": "REQUESTS_CA_BUNDLE"}},
        says=(("REQUESTS_CA_BUNDLE names", "cannot be used"),),
    ),
    "an unknown account": Case(
        command=("run-once", "--account", "mian"),
        exit_code=2,
        says=(
            ("Usage:",),
            ("Try",),
            ("Error:", "no account is called 'mian'", "configured: main"),
        ),
    ),
    "init over an existing file": Case(
        command=("init", "config.toml"), says=(("config.toml exists already", "left as it is"),)
    ),
    "init in a missing directory": Case(
        command=("init", "nowhere/config.toml"),
        says=(("cannot write nowhere/config.toml", "No such file or directory"),),
    ),
}


@pytest.fixture
def workplace(tmp_path: Path, key_pair: "KeyPair") -> Path:
    """Return a directory with all the files that the cases name."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    public = key_pair.public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files = {
        "open.pem": pem(key_pair.private_key),
        "weak.pem": pem(weak),
        "locked.pem": pem(key_pair.private_key, PASSPHRASE),
        "public.pem": public,
        "wrong.txt": b"incorrect horse\n",
        "open.txt": PASSPHRASE,
        "poem.txt": b"Tell me, O muse, of that ingenious hero who travelled far and wide\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644 if name.startswith("open") else 0o600)
    (tmp_path / "a-directory").mkdir()
    (tmp_path / "dangling.db").symlink_to("nowhere/order_groups.db")
    for name in ("newer.db", "empty.db"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            if name == "newer.db":
                connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
                connection.execute("INSERT INTO alembic_version VALUES ('9999')")
                connection.commit()
    return tmp_path


def contents(directory: Path) -> dict[str, object]:
    """Return the mode and the bytes of everything below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.is_file() and path.read_bytes(),
        )
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_fault_is_one_helpful_line_and_nothing_is_changed(
    exchange: Exchange,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    workplace: Path,
    case: Case,
) -> None:
    config = write_config(**case.config)
    text = config.read_text()
    for old, new in case.change.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    before = contents(workplace)
    environment = {"REQUESTS_CA_BUNDLE": "/nowhere"} if "REQUESTS_CA_BUNDLE" in text else {}
    finished = run_cli("--log-level", "ERROR", *case.command, env=environment)

    assert finished.returncode == case.exit_code, finished.stderr
    assert finished.stdout == ""
    lines = [line for line in finished.stderr.splitlines() if line]
    assert len(lines) == len(case.says), finished.stderr
    for line, expected in zip(lines, case.says, strict=True):
        assert len(line) < 600
        for part in expected:
            assert part in line
    assert "Traceback" not in finished.stderr
    assert PASSPHRASE.decode() not in finished.stderr
    assert contents(workplace) == before
    assert exchange.requests == []


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("postgresql://user@localhost/kalshi", {}),
        ("postgresql+psycopg://user:${PASSWORD}@localhost/kalshi", {"PASSWORD": "very secret"}),
    ],
)
def test_postgres_without_its_driver_names_the_extra(
    exchange: Exchange, write_config: "WriteConfig", url: str, environment: dict[str, str]
) -> None:
    config = write_config(database_url=url)
    # The import system does not find the driver, as if it were not installed.
    line = run_without(["psycopg", "psycopg_binary"], config, environment)
    assert "pip install '.[postgres]'" in line
    assert "very secret" not in line
    assert exchange.requests == []


def test_postgres_with_half_of_its_driver_names_the_extra(
    exchange: Exchange, write_config: "WriteConfig"
) -> None:
    config = write_config(database_url="postgresql://user@localhost/kalshi")
    # psycopg is installed, but neither its wheel that contains libpq nor a libpq of the system.
    line = run_without(["psycopg_binary", "psycopg_c"], config, {}, "psycopg.pq.pq_ctypes")
    assert "psycopg does not work here, no pq wrapper available" in line
    assert "pip install '.[postgres]'" in line
    assert exchange.requests == []


def run_without(
    packages: list[str], config: Path, environment: Mapping[str, str], *modules: str
) -> str:
    """Run `run-once` as if these packages and modules were not installed.

    Returns:
        The one line on stderr.
    """
    program = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages} or name in {modules}:\n"
        "            return None\n"
        "        return PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Without\n"
        "from exporter.cli import main\n"
        "main()\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, "--config", config, "run-once"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 78
    (line,) = finished.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("url", "part", "code"),
    [
        ("sqlite:///a-directory", "a-directory is a directory: name a file in it", 78),
        ("postgresql://nobody:pass-word@127.0.0.1:1/kalshi", "onnection refused", 74),
    ],
)
def test_migrate_says_in_one_line_why_the_database_cannot_be_used(
    write_config: "WriteConfig", run_cli: "RunCli", workplace: Path, url: str, part: str, code: int
) -> None:
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=url)
    before = contents(workplace)
    finished = run_cli("--config", config, "migrate")
    assert finished.returncode == code
    (line,) = finished.stderr.splitlines()
    assert part in line
    assert "pass-word" not in line
    assert contents(workplace) == before
