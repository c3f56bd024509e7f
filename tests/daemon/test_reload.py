"""SIGHUP makes a running daemon reload its configuration, or refuse a faulty one."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from exporter.demo.exchange import Exchange
from tests.support.daemons import StartDaemon, daemons, wait_until
from tests.support.keys import write_key

if TYPE_CHECKING:
    from tests.conftest import KeyPair, WriteConfig

SOON = {"interval": "500ms", "deadline": "5s"}


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Yield a function that starts daemons, whose logs are configured by their configuration."""
    with daemons(tmp_path, options=()) as start:
        yield start


@pytest.fixture
def entry(exchange: Exchange, key_pair: "KeyPair") -> Callable[[str], dict[str, str]]:
    """Return a function that makes an account with a key id of its own."""

    def make(name: str) -> dict[str, str]:
        exchange.register(f"key-of-{name}", key_pair.public_key)
        return {"name": name, "key_id": f"key-of-{name}"}

    return make


def asked(exchange: Exchange, name: str) -> list[float]:
    """Return when the exchange received each request of an account, in seconds."""
    return [each.received_at for each in exchange.requests if each.key_id == f"key-of-{name}"]


def test_accounts_are_added_removed_and_changed_while_others_keep_their_grid(
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    exchange: Exchange,
    entry: Callable[[str], dict[str, str]],
) -> None:
    log = {"format": "json"}
    stays, goes, comes = entry("stays"), entry("goes"), entry("comes")
    config = write_config(
        poll=SOON, log=log, account=stays, more_accounts=[goes, entry("slow") | {"interval": "1h"}]
    )
    daemon = start_daemon(config)
    wait_until(lambda: asked(exchange, "goes") and asked(exchange, "slow"), "first polls")
    write_config(
        poll=SOON, log=log, account=stays, more_accounts=[comes, entry("slow") | {"interval": "1s"}]
    )
    daemon.reload()
    daemon.wait_for_line("reloaded")
    left = len(asked(exchange, "goes"))
    wait_until(lambda: len(asked(exchange, "comes")) >= 3, "polls of the new account")
    wait_until(lambda: len(asked(exchange, "slow")) >= 3, "polls on the new interval")
    assert len(asked(exchange, "goes")) <= left + 1
    # The polls keep their offset within the interval, and skip no tick; a busy machine may delay
    # a few.
    times = asked(exchange, "stays")[1:]
    places = [round((each - times[0]) / 0.5) for each in times]
    assert len(set(places)) >= len(places) - 2
    assert places[-1] <= len(places) + 2
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0


def test_a_corrected_key_is_tried_at_once(
    write_config: "WriteConfig",
    start_daemon: StartDaemon,
    exchange: Exchange,
    tmp_path: Path,
    key_pair: "KeyPair",
) -> None:
    wrong = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = write_key(tmp_path / "own.pem", wrong)
    config = write_config(
        poll=SOON, log={"format": "json"}, account={"private_key_file": str(file)}
    )
    daemon = start_daemon(config)
    wait_until(lambda: len(exchange.requests) >= 3, "three refused polls")
    file.write_bytes(key_pair.private_key_file.read_bytes())
    daemon.reload()
    # Without the reload, the next poll would be five minutes away.
    daemon.wait_for_line("poll_ok")


FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "not TOML": (lambda text: text + "[", "not valid TOML"),
    "an impossible value": (lambda text: text.replace('"500ms"', '"-1s"'), "poll.interval"),
    "a missing key file": (
        lambda text: re.sub(r'private_key_file = ".*"', 'private_key_file = "gone"', text),
        "gone",
    ),
    "a missing schema": (
        lambda text: text.replace("order_groups.db", "other.db") + "\n",
        "migrate",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_configuration_is_refused_and_the_current_one_stays(
    write_config: "WriteConfig", start_daemon: StartDaemon, exchange: Exchange, fault: str
) -> None:
    change, reason = FAULTS[fault]
    config = write_config(poll=SOON, log={"format": "json"})
    daemon = start_daemon(config)
    daemon.wait_for_line("poll_ok")
    good = config.read_text()
    bad = change(good)
    if fault == "a missing schema":
        bad = bad.replace("[database]", "[database]\nauto_migrate = false")
    config.write_text(bad)
    daemon.reload()
    line = daemon.wait_for_line("reload_failed")
    assert reason in line["message"]
    assert line["message"].endswith("; the configuration in force stays")
    before = len(exchange.requests)
    wait_until(lambda: len(exchange.requests) > before + 1, "further polls")
    config.write_text(good)
    daemon.reload()
    daemon.wait_for_line("reloaded")
    assert daemon.process.poll() is None


def test_the_log_level_and_the_database_change_too(
    write_config: "WriteConfig", start_daemon: StartDaemon, tmp_path: Path
) -> None:
    config = write_config(poll=SOON, log={"format": "json"})
    daemon = start_daemon(config)
    daemon.wait_for_line("poll_ok")
    write_config(
        poll=SOON,
        log={"format": "json", "level": "DEBUG"},
        database={"url": "sqlite:///other.db"},
    )
    daemon.reload()
    daemon.wait_for_line("reloaded")
    wait_until((tmp_path / "other.db").exists, "the other database")
    daemon.wait_for_line("poll_ok", number=len(daemon.lines("poll_ok")) + 2)
    # The daemon closes its connections to the old database.
    wait_until(lambda: "order_groups.db" not in open_files(daemon.process.pid), "it is closed")


def open_files(process_id: int) -> set[str]:
    """Return the names of the files that a process has open; without /proc, no names."""
    names = set()
    for path in Path(f"/proc/{process_id}/fd").glob("*"):
        with suppress(FileNotFoundError):  # the file was closed in the meantime
            names.add(path.readlink().name)
    return names
