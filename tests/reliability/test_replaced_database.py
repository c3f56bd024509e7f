"""Test a daemon whose SQLite file is deleted, moved, replaced or overwritten."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soak.witness import broken_promises, differences, record_of
from tests.support.daemons import Daemon, StartDaemon

if TYPE_CHECKING:
    from soak.witness import Served, Witness
    from tests.conftest import KeyPair, WriteConfig

_INTERVAL = 0.3  # seconds

GONE = "the file is gone"
REPLACED = "another file has taken the place"
OVERWRITTEN = "the file was overwritten"


def _delete(live: Path, _backup: Path, _other: Path) -> None:
    live.unlink()


def _delete_all(live: Path, _backup: Path, _other: Path) -> None:
    for path in live.parent.glob(f"{live.name}*"):
        path.unlink()


def _move(live: Path, _backup: Path, other: Path) -> None:
    live.rename(other)


def _replace(live: Path, backup: Path, other: Path) -> None:
    """Replace the file with a copy of the backup in one step; keep the old file as `other`."""
    os.link(live, other)
    copy = live.with_name("copy.db")
    shutil.copyfile(backup, copy)
    copy.replace(live)


def _overwrite(live: Path, backup: Path, _other: Path) -> None:
    """Copy the backup into the file, as `cp` does, so that its inode stays."""
    shutil.copyfile(backup, live)


def _restore(live: Path, backup: Path, _other: Path) -> None:
    shutil.copyfile(backup, live)


def _move_back(live: Path, _backup: Path, other: Path) -> None:
    other.rename(live)


def _nothing(_live: Path, _backup: Path, _other: Path) -> None:
    pass


Act = Callable[[Path, Path, Path], None]


def back_up(live: Path, backup: Path) -> None:
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)


def observations(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("SELECT version FROM accounts").fetchone()[0]
    return count


@pytest.mark.parametrize(
    ("act", "message", "mend"),
    [
        (_delete, GONE, _restore),
        (_delete_all, GONE, _restore),
        (_move, GONE, _restore),
        (_move, GONE, _move_back),
        (_replace, REPLACED, _nothing),
        (_overwrite, OVERWRITTEN, _nothing),
    ],
)
def test_it_reports_the_change_and_continues_with_the_new_file(
    act: Act,
    message: str,
    mend: Act,
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    live, backup, other = (tmp_path / name for name in ("order_groups.db", "backup", "other.db"))
    daemon = start_daemon(_config(write_config, witness))
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 4, "some polls")
    back_up(live, backup)
    daemon.wait(lambda: len(served) >= 10, "more polls")

    before = len(served)
    act(live, backup, other)
    daemon.wait_for_text(message)
    # One poll may have been under way; the next one reports the change.
    assert len(served) - before <= 2
    if message == GONE:
        seen = len(served)
        daemon.wait(lambda: len(served) >= seen + 4, "polls without a database")
        assert not live.exists()
        mend(live, backup, other)
    seen = len(served)
    daemon.wait(lambda: "polls from the spool are in the database" in daemon.text, "draining")
    daemon.wait(lambda: len(served) >= seen + 4, "polls of the new database")
    assert daemon.stop() == 0

    _assert_matches(live, daemon, served)
    assert len(served) - observations(live) <= before
    if other.exists():
        # The daemon checkpointed the write-ahead log into the old file, so no log is left.
        assert not other.with_name("other.db-wal").exists()
        recorded = record_of(f"sqlite:///{other}")
        assert broken_promises(recorded) == []
        assert differences(recorded, "main", served, complete=False) == []
        assert before - 1 <= len(recorded.polls) <= before + 1


def test_a_link_with_a_new_target_is_another_database(
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    """A daemon follows a link to its new target, beside which SQLite keeps the write-ahead log."""
    first, second, link = (tmp_path / name for name in ("first.db", "second.db", "linked.db"))
    link.symlink_to(first)
    daemon = start_daemon(_config(write_config, witness, database_url=f"sqlite:///{link}"))
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 4, "some polls")
    back_up(first, second)
    daemon.wait(lambda: len(served) >= 8, "more polls")
    switched = tmp_path / "switched"
    switched.symlink_to(second)
    before = len(served)
    switched.replace(link)
    daemon.wait_for_text(REPLACED)
    daemon.wait(lambda: len(served) >= before + 5, "polls of the other database")
    assert daemon.stop() == 0
    _assert_matches(second, daemon, served)
    recorded = record_of(f"sqlite:///{first}")
    assert broken_promises(recorded) == []
    assert before - 1 <= len(recorded.polls) <= before + 1


def test_touching_reading_and_checkpointing_are_no_replacement(
    witness: "Witness",
    key_pair: "KeyPair",
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    tmp_path: Path,
) -> None:
    live = tmp_path / "order_groups.db"
    daemon = start_daemon(_config(write_config, witness))
    served = witness.served[key_pair.key_id]
    daemon.wait(lambda: len(served) >= 3, "some polls")
    for number in range(30):
        os.utime(live)
        live.chmod(0o600 if number % 2 else 0o640)
        with closing(sqlite3.connect(live, timeout=10)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if number == 10:
                connection.execute("VACUUM")
        time.sleep(0.05)
    seen = len(served)
    daemon.wait(lambda: len(served) >= seen + 3, "more polls")
    assert daemon.stop() == 0
    assert "waits in the spool" not in daemon.text
    recorded = record_of(f"sqlite:///{live}")
    assert broken_promises(recorded) == []
    assert differences(recorded, "main", served, complete=True) == []


def _config(
    write_config: "WriteConfig", witness: "Witness", *, database_url: str | None = None
) -> Path:
    return write_config(
        base_url=witness.base_url,
        database_url=database_url,
        poll={"interval": f"{_INTERVAL}s", "deadline": "5s"},
    )


def _assert_matches(path: Path, daemon: Daemon, served: "Sequence[Served]") -> None:
    recorded = record_of(f"sqlite:///{path}")
    assert broken_promises(recorded) == [], daemon.text
    assert differences(recorded, "main", served, complete=False) == []
