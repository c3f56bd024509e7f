"""`check` reports every fault as a finding that says what to do, and changes nothing."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import make_url

from exporter.cli import main
from exporter.config.keys import ENVIRONMENTS
from exporter.config.load import load
from exporter.database.database import Database
from exporter.demo.exchange import Exchange
from exporter.doctor.check import check
from exporter.doctor.finding import Finding
from exporter.history.migrate import _ADVISORY_LOCK, migrate
from exporter.history.schema import REVISION
from exporter.model import Poll
from exporter.spool.spool import Spool
from tests.reliability.conftest import Link

if TYPE_CHECKING:
    from tests.conftest import KeyPair, RunCli, WriteConfig


def lines(finished: Any) -> dict[str, str]:
    """Return the findings by subject; the last one, if a subject has several."""
    found = {}
    for line in finished.stdout.splitlines():
        subject, _, text = line[6:].partition(": ")
        found[subject] = f"{line[:4].strip()}: {text}"
    return found


def test_without_faults_everything_is_ok_and_nothing_is_changed(
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    tmp_path: Path,
) -> None:
    exchange.groups(key_pair.key_id).create("a")
    config = write_config()
    before = sorted(tmp_path.rglob("*"))
    finished = run_cli("check")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    found = lines(finished)
    assert found["configuration"] == f"ok: {config}; accounts: main"
    assert found["key of main"] == f"ok: RSA 2048, {key_pair.private_key_file}, mode 0600"
    assert found["database"].endswith("does not exist; the first poll makes it")
    assert found["spool"] == f"ok: {tmp_path}/spool; empty"
    assert found["account main"].startswith(f"ok: 1 groups from {exchange.base_url} in 0.")
    assert run_cli("run-once").returncode == 0
    assert lines(run_cli("check"))["database"].endswith(f"; schema {REVISION}; writable")


def test_offline_sends_no_request(
    exchange: Exchange, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config()
    finished = run_cli("check", "--offline")
    assert finished.returncode == 0
    assert list(lines(finished)) == ["configuration", "key of main", "database", "spool"]
    assert exchange.requests == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("key id", "no such key in this environment: check key_id, and environment"),
        ("key file", "private_key_file is not the key that belongs to this key_id"),
        ("clock", "this machine's clock is 3600 s behind the exchange's"),
        ("scope", "the key may not read this: it needs the scope read, and this subaccount"),
    ],
)
def test_causes_of_a_refusal_are_told_apart(
    exchange: Exchange,
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    run_cli: "RunCli",
    fault: str,
    said: str,
) -> None:
    key_id = key_pair.key_id
    if fault == "key id":
        key_id = "11111111-2222-3333-4444-555555555555"
    elif fault == "key file":
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        exchange.register(key_id, other.public_key())
    elif fault == "clock":
        exchange.clock_offset = 3600.0
    else:
        exchange.register(key_id, key_pair.public_key, scopes=("write",))
    write_config(account={"key_id": key_id})
    finished = run_cli("check")
    assert finished.returncode == 77
    text = lines(finished)["account main"]
    assert text.startswith("FAIL: the exchange responded 40")
    assert said in text
    assert f"(key …{key_id[-4:]})" in text
    assert key_id not in finished.stdout + finished.stderr


@pytest.mark.parametrize(("ours", "other"), [("production", "demo"), ("demo", "production")])
def test_an_unknown_key_may_belong_to_the_other_environment(
    exchange: Exchange,
    write_config: "WriteConfig",
    monkeypatch: pytest.MonkeyPatch,
    ours: str,
    other: str,
) -> None:
    monkeypatch.setitem(ENVIRONMENTS, ours, exchange.base_url)
    config = write_config(account={"base_url": None, "environment": ours, "key_id": "unknown"})
    finished = CliRunner().invoke(main, ["--config", str(config), "check"])
    assert finished.exit_code == 77
    assert f'that was made on {other} works with environment = "{other}"' in finished.stdout


def test_a_key_in_a_git_working_tree_is_a_warning(
    key_pair: "KeyPair", write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    shutil.copy2(key_pair.private_key_file, tmp_path / "kalshi.pem")
    (tmp_path / "passphrase").touch(mode=0o600)
    (tmp_path / "passphrase").write_text("not needed")
    write_config(
        base_url="http://127.0.0.1:1/trade-api/v2",
        account={
            "private_key_file": "kalshi.pem",
            "private_key_passphrase_file": "passphrase",
        },
    )
    finished = run_cli("check", "--offline")
    assert finished.returncode == 0
    for name in ("kalshi.pem", "passphrase"):
        said = f"warn  key of main: {tmp_path}/{name} lies in the git working tree"
        assert f"{said} {tmp_path.resolve()}, " in finished.stdout
    assert finished.stdout.count("move it out of there") == 2


def test_every_faulty_key_is_a_finding(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").touch(mode=0o600)
    write_config(
        base_url="http://127.0.0.1:1/trade-api/v2",
        account={"private_key_file": "none.pem"},
        more_accounts=[{"name": "second", "private_key_file": "empty.pem"}],
    )
    finished = run_cli("check")
    assert finished.returncode == 78
    found = lines(finished)
    assert found["key of main"].startswith("FAIL: ")
    assert found["key of second"].endswith("empty.pem is empty: put the private key there")
    assert "account main" not in found


def test_sqlite_on_a_network_file_system_is_a_warning(
    write_config: "WriteConfig", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path.resolve()} rw - nfs4 filer:/export rw\n")
    monkeypatch.setattr("exporter.doctor.filesystem._MOUNTS", mounts)
    config = load(write_config(base_url="http://127.0.0.1:1/trade-api/v2"))
    (warning,) = [each for each in check(config, offline=True) if each.doubtful]
    assert warning.subject == "database"
    assert "a network file system, nfs4 (filer:/export)" in warning.text
    assert "use Postgres" in warning.text


def test_a_spool_that_cannot_be_made_is_a_failure(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    (tmp_path / "spool").touch()
    write_config(base_url="http://127.0.0.1:1/trade-api/v2")
    finished = run_cli("check", "--offline")
    assert finished.returncode == 74
    assert "FAIL: " in lines(finished)["spool"]


def waiting(account: str) -> Poll:
    """Return a poll of an account to put into the spool."""
    now = datetime.now(UTC)
    return Poll(
        account=account,
        started_at=now,
        finished_at=now,
        outcome="timeout",
        attempts=1,
        http_status=None,
        clock_skew_ms=None,
        error_code=None,
        error_message=None,
        error_details=None,
        error_service=None,
        observation=None,
    )


def test_spooled_polls_are_counted_and_stranded_ones_are_a_warning(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2")
    ours = load(config).database.safe_url
    for database, account, count in (
        (ours, "main", 2),
        (ours, "former", 3),
        ("postgresql+psycopg://me:***@old/db", "main", 4),
    ):
        with closing(Spool(tmp_path / "spool", 2**20, database=database)) as spool:
            for _ in range(count):
                spool.put(waiting(account))
    finished = run_cli("check", "--offline")
    assert finished.returncode == 0
    said = [line for line in finished.stdout.splitlines() if "spool: " in line]
    assert [line[:5] for line in said] == ["ok   ", "warn ", "warn "]
    assert said[0].endswith("; 5 polls wait for the database")
    assert "3 polls wait for the account former, which is not configured" in said[1]
    assert "4 polls wait for another database, postgresql+psycopg://me:***@old/db" in said[2]


def test_an_older_schema_is_a_failure_only_without_auto_migrate(
    write_config: "WriteConfig", run_cli: "RunCli", sqlite_url: str
) -> None:
    with closing(Database(sqlite_url)) as database:
        migrate(database, to="0001")
    base_url = "http://127.0.0.1:1/trade-api/v2"
    write_config(base_url=base_url, database_url=sqlite_url)
    finished = run_cli("check", "--offline")
    assert finished.returncode == 0
    assert f"schema 0001: the first poll migrates it to {REVISION}" in finished.stdout
    write_config(base_url=base_url, database_url=sqlite_url, database={"auto_migrate": False})
    finished = run_cli("check", "--offline")
    assert finished.returncode == 78
    assert "run `kalshi-exporter migrate`" in lines(finished)["database"]


def test_an_account_whose_exchange_was_changed_is_a_failure(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config()
    assert run_cli("run-once").returncode == 0
    write_config(account={"exchange": "margin"})
    finished = run_cli("check", "--offline")
    assert finished.returncode == 78
    assert 'its history comes from exchange = "predictions"' in lines(finished)["database"]
    assert run_cli("run-once").returncode == 78


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the database's timeouts to half a second."""
    monkeypatch.setattr("exporter.database.postgres._STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr("exporter.history.migrate._WAIT_SECONDS", 0.5)
    monkeypatch.setattr("exporter.history.prune._COUNT_SECONDS", 0.5)


@pytest.fixture
def remote(postgres_url: str) -> Iterator[tuple[Link, psycopg.Connection[Any]]]:
    """Yield a link to Postgres that can hang, and a session that can lock the tables."""
    link = Link(postgres_url)
    libpq = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(libpq.render_as_string(hide_password=False)) as other:
        yield link, other
    link.close()


def finding(config: Path) -> Finding:
    """Return what `check` finds about the database."""
    (found,) = [each for each in check(load(config), offline=True) if each.subject == "database"]
    return found


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("table", ["accounts", "alembic_version"])
def test_commands_wait_for_locked_tables_only_so_long(
    remote: tuple[Link, psycopg.Connection[Any]],
    write_config: "WriteConfig",
    table: str,
) -> None:
    link, other = remote
    with closing(Database(link.url)) as database:
        migrate(database)
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=link.url)
        found = finding(config)
        assert int(found.exit_code) == 74
        assert "another session holds a lock" in found.text
        for dry in (["--dry-run"], []):
            began = time.monotonic()
            pruned = CliRunner().invoke(
                main, ["--config", str(config), "prune", "--older-than", "1d", *dry]
            )
            assert pruned.exit_code == 74
            assert "another session holds a lock" in pruned.stderr
            assert time.monotonic() - began < 8


@pytest.mark.usefixtures("short_timeouts")
def test_a_migration_waits_for_locked_tables_only_so_long(
    remote: tuple[Link, psycopg.Connection[Any]], write_config: "WriteConfig"
) -> None:
    link, other = remote
    with closing(Database(link.url)) as database:
        migrate(database, to="0001")
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=link.url)
    # The first lock is that of another migration, the second that of a long-running reader.
    for statement in (
        f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})",
        "LOCK TABLE order_group_snapshots IN ACCESS SHARE MODE",
    ):
        other.execute(statement)
        refused = CliRunner().invoke(main, ["--config", str(config), "migrate"])
        assert refused.exit_code == 74, statement
        assert "another session holds a lock" in refused.stderr
        other.rollback()
    done = CliRunner().invoke(main, ["--config", str(config), "migrate"])
    assert done.exit_code == 0, done.output


@pytest.mark.usefixtures("short_timeouts")
def test_commands_wait_for_a_silent_server_only_so_long(
    remote: tuple[Link, psycopg.Connection[Any]], write_config: "WriteConfig"
) -> None:
    link, _ = remote
    with closing(Database(link.url)) as database:
        migrate(database, to="0001")
    config = write_config(base_url="http://127.0.0.1:1/trade-api/v2", database_url=link.url)
    link.frozen.set()
    began = time.monotonic()
    assert int(finding(config).exit_code) == 74
    for command in (["migrate"], ["status"], ["prune", "--older-than", "1d"]):
        refused = CliRunner().invoke(main, ["--config", str(config), *command])
        assert refused.exit_code == 74
    assert time.monotonic() - began < 40


def test_status_counts_the_spooled_polls_while_the_database_is_away(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config(database_url="postgresql://nobody@127.0.0.1:1/kalshi")
    for _ in range(2):
        assert run_cli("run-once").returncode == 75
    finished = run_cli("status")
    assert finished.returncode == 74
    assert finished.stderr.rstrip().endswith("; polls that wait for it in the spool: 2")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_a_failure(
    write_config: "WriteConfig", run_cli: "RunCli", tmp_path: Path
) -> None:
    place = tmp_path / "sealed"
    place.mkdir(mode=0o500)
    write_config(
        base_url="http://127.0.0.1:1/trade-api/v2", database_url="sqlite:///sealed/groups.db"
    )
    finished = run_cli("check", "--offline")
    assert finished.returncode == 78
    assert "sealed may not be written to by" in lines(finished)["database"]


def test_a_proxy_in_the_environment_is_reported_as_ignored(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config(base_url="http://127.0.0.1:1/trade-api/v2", poll={"max_attempts": 1})
    environment = {"HTTPS_PROXY": "http://me:hush@proxy.example:3128"}
    finished = run_cli("check", env=environment)
    found = lines(finished)
    assert found["proxy"].startswith("warn: HTTPS_PROXY in the environment is not read")
    assert "[http]" in found["proxy"]
    assert "HTTPS_PROXY in the environment is not read: set [http] proxy" in found["account main"]
    polled = run_cli("run-once", env=environment)
    assert polled.returncode == 69
    assert "HTTPS_PROXY in the environment is not read: set [http] proxy" in polled.stderr
    assert "hush" not in finished.stdout + finished.stderr + polled.stderr


def test_the_proxy_that_is_used_is_shown_without_its_password(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    write_config(
        base_url="https://127.0.0.1:1/trade-api/v2",
        poll={"max_attempts": 1},
        http={"proxy": "http://me:hush@127.0.0.1:1"},
    )
    finished = run_cli("check", env={"HTTPS_PROXY": "http://elsewhere.example:3128"})
    assert "http://me:***@127.0.0.1:1" in lines(finished)["proxy"]
    assert "through the proxy 127.0.0.1:1" in lines(finished)["account main"]
    assert "HTTPS_PROXY" not in finished.stdout
    assert "hush" not in finished.stdout + finished.stderr


def test_another_package_named_exporter_is_found(
    write_config: "WriteConfig", tmp_path: Path
) -> None:
    (tmp_path / "exporter").mkdir()
    (tmp_path / "exporter" / "__init__.py").touch()
    information = tmp_path / "other_exporter-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-exporter\nVersion: 1\n"
    )
    (information / "top_level.txt").write_text("exporter\n")
    # The other package comes later in the path, where it does no harm but is found.
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import exporter.cli as c; c.main()"
    finished = subprocess.run(
        [sys.executable, "-c", program, "--config", write_config(), "check", "--offline"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 78
    (line,) = [each for each in finished.stdout.splitlines() if "installation" in each]
    assert line.endswith(
        "installation: other-exporter has a package named exporter too, in the same place:"
        " install kalshi-exporter alone in a virtual environment of its own"
    )
