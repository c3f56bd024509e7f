"""Test the metrics that Prometheus scrapes, and the paths /livez and /readyz."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange
from exporter.errors import Exit, SpoolError
from exporter.hooks import (
    AccountsChanged,
    EventsRecorded,
    Heartbeat,
    PollDrained,
    PollFinished,
    StreamChanged,
    TickSkipped,
)
from exporter.model import OrderGroupEvent
from exporter.monitoring.endpoint import Endpoint
from exporter.monitoring.health import Health
from exporter.monitoring.metrics import Metrics
from tests.support.daemons import wait_until
from tests.support.events import poll_finished
from tests.support.processes import ending, free_port

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.conftest import RunCli, WriteConfig

ROOT = Path(__file__).parent.parent.parent
PREFIX = "kalshi_exporter_"
TIMEOUT = 60.0  # seconds; a test normally waits one or two


def ended(account: str = "main", **fields: Any) -> PollFinished:
    now = datetime.now(UTC)
    event = poll_finished(
        now,
        account=account,
        seconds=0.07,
        attempts=2,
        clock_skew_ms=-1500,
        last_success_at=now,
        groups=3,
        added=2,
        changed=1,
        removed=0,
    )
    return replace(event, **fields)


def failed(account: str = "main", **fields: Any) -> PollFinished:
    event = ended(account, groups=None, added=None, changed=None, removed=None)
    facts: dict[str, Any] = {
        "outcome": "server_error",
        "exit_code": Exit.UNAVAILABLE,
        "reason": "the exchange failed",
        "last_success_at": None,
    }
    return replace(event, **(facts | fields))


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return the value of one series, or None if the scrape lacks it."""
        return self.samples.get((name, tuple(sorted(labels.items()))))


def get(port: int | None, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def health() -> Health:
    watched = Health()
    watched.receive(AccountsChanged({"main": 60.0}))
    return watched


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(lambda: {"main": 4, "other": 1}, process=True)
    made.receive(AccountsChanged({"main": 60.0}, frozenset({"main"})))
    return made


@pytest.fixture
def endpoint(metrics: Metrics, health: Health) -> Iterator[Endpoint]:
    serving = Endpoint(metrics, health, "127.0.0.1", 0)
    serving.start()
    yield serving
    serving.close()


def test_polls_are_counted(metrics: Metrics, endpoint: Endpoint) -> None:
    metrics.receive(event := ended())
    metrics.receive(failed())
    metrics.receive(PollDrained(account="main", added=0, changed=0, removed=5))
    status, text = get(endpoint.port, "/metrics")
    scrape = Scrape(text)
    assert status == 200
    assert scrape("polls_total", account="main", outcome="ok") == 1
    assert scrape("polls_total", account="main", outcome="server_error") == 1
    assert scrape("polls_total", account="main", outcome="timeout") == 0
    assert scrape("poll_attempts_total") == 4
    assert scrape("poll_duration_seconds_count") == 2
    assert scrape("poll_duration_seconds_bucket", le="0.05") == 0
    assert scrape("poll_interval_seconds", account="main") == 60
    assert scrape("order_groups", account="main") == 3
    assert scrape("changes_total", account="main", change="added") == 2
    assert scrape("changes_total", account="main", change="removed") == 5
    assert scrape("clock_skew_seconds") == -1.5
    assert scrape("spool_polls") == 5
    assert event.last_success_at is not None
    # The later failure carries no time of success, and must not erase the earlier one.
    success = scrape("last_success_timestamp_seconds", account="main")
    assert success == pytest.approx(event.last_success_at.timestamp(), abs=0.001)
    assert scrape("last_attempt_timestamp_seconds", account="main") is not None
    assert f"{PREFIX}build_info" in text
    assert "process_resident_memory_bytes" in text


def test_the_stream_is_counted(metrics: Metrics, endpoint: Endpoint) -> None:
    at = datetime(2026, 11, 23, 14, 3, tzinfo=UTC)
    heard = [
        OrderGroupEvent(order_group_id="a", event_type=kind, event_at=at, received_at=at)
        for kind in ("triggered", "reset", "something new", "something else")
    ]
    metrics.receive(StreamChanged(account="main", at=at, connected=True))
    later = at + timedelta(milliseconds=15)
    metrics.receive(EventsRecorded(account="main", events=heard, recorded_at=later))
    scrape = Scrape(get(endpoint.port, "/metrics")[1])
    assert scrape("stream_connected", account="main") == 1
    assert scrape("events_total", account="main", event_type="triggered") == 1
    assert scrape("events_total", account="main", event_type="other") == 2
    assert scrape("event_delay_seconds_bucket", le="0.02") == 4
    assert scrape("event_delay_seconds_bucket", le="0.01") == 0
    metrics.receive(
        StreamChanged(
            account="main", at=at, connected=False, was_connected=True, cause="disconnected"
        )
    )
    metrics.receive(StreamChanged(account="main", at=at, connected=False, cause="unreachable"))
    scrape = Scrape(get(endpoint.port, "/metrics")[1])
    assert scrape("stream_connected", account="main") == 0
    assert scrape("stream_disconnects_total", account="main", cause="disconnected") == 1
    assert scrape("stream_connection_failures_total", account="main", cause="unreachable") == 1
    # A stream that is stopped on purpose has not failed.
    for was_connected in (True, False):
        metrics.receive(
            StreamChanged(
                account="main",
                at=at,
                connected=False,
                was_connected=was_connected,
                cause="not_listening",
            )
        )
    scrape = Scrape(get(endpoint.port, "/metrics")[1])
    assert scrape("stream_disconnects_total", account="main", cause="not_listening") == 0
    assert scrape("stream_connection_failures_total", account="main", cause="not_listening") == 0
    metrics.receive(AccountsChanged({"main": 60.0}))
    scrape = Scrape(get(endpoint.port, "/metrics")[1])
    assert scrape("stream_connected", account="main") is None
    assert scrape("events_total", account="main", event_type="triggered") is None


def test_accounts_come_and_go(metrics: Metrics, endpoint: Endpoint) -> None:
    metrics.receive(ended())
    metrics.receive(AccountsChanged({"other": 10.0}))
    metrics.receive(ended())  # a poll that was already running
    text = get(endpoint.port, "/metrics")[1]
    assert 'account="main"' not in text
    assert Scrape(text)("polls_total", account="other", outcome="ok") == 0
    # Before its first success an account has no timestamp, rather than one in 1970.
    assert Scrape(text)("last_success_timestamp_seconds", account="other") is None


def test_a_spool_that_cannot_be_read_costs_one_number(metrics: Metrics, endpoint: Endpoint) -> None:
    def fail() -> dict[str, int]:
        raise SpoolError("broken")

    metrics.spooled = fail
    status, text = get(endpoint.port, "/metrics")
    assert status == 200
    assert f"{PREFIX}spool_polls NaN" in text


def test_readyz_says_whether_the_data_is_fresh(health: Health, endpoint: Endpoint) -> None:
    assert get(endpoint.port, "/readyz") == (503, "main: no success yet\n")
    health.receive(ended())
    assert get(endpoint.port, "/readyz") == (200, "ok\n")
    health.receive(failed())
    assert get(endpoint.port, "/readyz")[0] == 200
    health.receive(AccountsChanged({"main": 0.001}))
    time.sleep(0.01)
    assert get(endpoint.port, "/readyz") == (
        503,
        "main: no success for 0 s: the exchange failed\n",
    )
    health.receive(TickSkipped("main"))
    health.receive(AccountsChanged({"main": 60.0}))
    assert get(endpoint.port, "/readyz")[0] == 200


def test_an_old_observation_in_the_database_is_not_fresh(health: Health) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    health.receive(failed(last_success_at=hour_ago))
    assert health.stale() == {"main": "no success for 3600 s: the exchange failed"}
    assert health.summary() == (
        f"1 account, 1 stale, 0 order groups, last success {hour_ago:%Y-%m-%dT%H:%M:%SZ}"
    )
    health.receive(ended())
    assert not health.stale()


def test_livez_says_whether_the_scheduler_runs(
    health: Health, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(endpoint.port, "/livez") == (200, "ok\n")
    monkeypatch.setattr(health, "_heartbeat", health._heartbeat - 31)
    status, text = get(endpoint.port, "/livez")
    assert status == 503
    assert text.startswith("the scheduler has been stalled for 3")
    health.receive(Heartbeat())
    assert get(endpoint.port, "/livez")[0] == 200


def test_an_unknown_path_names_the_known_ones(endpoint: Endpoint) -> None:
    assert get(endpoint.port, "/") == (404, "see /metrics, /livez and /readyz\n")


def test_a_busy_port_costs_only_the_metrics_and_is_retried(
    metrics: Metrics, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint(metrics, health, *taken.getsockname()[:2])
        endpoint.start()
        endpoint.start()
    (record,) = caplog.records
    assert "Address already in use" in record.getMessage()
    endpoint.receive(Heartbeat())
    assert endpoint.port is None  # it retries only after a minute
    endpoint.start()
    try:
        assert get(endpoint.port, "/livez")[0] == 200
    finally:
        endpoint.close()


def daemon(config: Path) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    return ending(
        subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config", str(config), "daemon"],
            stderr=subprocess.DEVNULL,
        )
    )


def test_the_daemon_serves_its_endpoint_while_it_polls(
    write_config: "WriteConfig", exchange: Exchange, key_id: str
) -> None:
    exchange.groups(key_id).create("g-1")
    port = free_port()
    config = write_config(metrics={"listen": f"127.0.0.1:{port}"}, poll={"interval": "500ms"})

    def status(path: str) -> int:
        try:
            return get(port, path)[0]
        except urllib.error.URLError:
            return 0

    with daemon(config) as process:
        wait_until(lambda: status("/readyz") == 200, "ready")
        assert status("/livez") == 200
        scrape = Scrape(get(port, "/metrics")[1])
        assert (scrape("polls_total", account="main", outcome="ok") or 0) >= 1
        assert scrape("order_groups", account="main") == 1
        # The group already existed at the first poll, so nobody saw it being added.
        assert scrape("changes_total", account="main", change="added") == 0
        exchange.script(key_id, *[Answer.server_error()] * 200)
        wait_until(lambda: status("/readyz") == 503, "not ready")
        assert status("/livez") == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_run_once_writes_the_metrics_to_a_file(
    write_config: "WriteConfig", run_cli: "RunCli", exchange: Exchange, key_id: str, tmp_path: Path
) -> None:
    exchange.groups(key_id).create("g-1")
    config = write_config(
        metrics={"textfile": "exporter.prom"}, poll={"max_attempts": 1, "interval": "60s"}
    )
    file = tmp_path / "exporter.prom"
    before = os.umask(0o077)
    try:
        assert run_cli("--config", config, "run-once").returncode == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    first = Scrape(file.read_text())
    assert first("polls_total", account="main", outcome="ok") == 1
    assert first("order_groups", account="main") == 1
    # A failed run reads the last success from the database.
    exchange.script(key_id, Answer.server_error())
    assert run_cli("--config", config, "run-once").returncode == 69
    second = Scrape(file.read_text())
    assert second("polls_total", account="main", outcome="server_error") == 1
    success = second("last_success_timestamp_seconds", account="main")
    assert success == first("last_success_timestamp_seconds", account="main")
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == [file.name]


def test_a_file_that_cannot_be_written_costs_one_line(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    config = write_config(metrics={"textfile": "missing/exporter.prom"})
    finished = run_cli("--config", config, "--log-level", "ERROR", "run-once")
    assert finished.returncode == 0
    (line,) = finished.stderr.splitlines()
    assert "metrics_failed: cannot write metrics.textfile" in line


@pytest.mark.parametrize("command", ["daemon", "run-once"])
def test_without_the_library_the_extra_is_named(
    write_config: "WriteConfig", tmp_path: Path, command: str
) -> None:
    config = write_config(metrics={"textfile": "exporter.prom"})
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['prometheus_client'] = None\n"
    )
    finished = subprocess.run(
        [sys.executable, "-m", "exporter", "--config", config, command],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert finished.returncode == 78
    (line,) = finished.stderr.splitlines()
    assert line.endswith(
        "config.toml: metrics: needs prometheus_client:"
        " pip install '.[metrics]' in a clone of the repository"
    )


def test_run_once_without_a_textfile_does_not_load_the_library(
    write_config: "WriteConfig",
) -> None:
    config = write_config(metrics={"listen": "127.0.0.1:9464"})
    code = (
        "import sys; from exporter.cli import main\n"
        f"main(['--config', {str(config)!r}, 'run-once'], standalone_mode=False)\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT)


# Alert rules, dashboard and documentation


def known_names(metrics: Metrics) -> set[str]:
    metrics.receive(ended())
    return {
        sample.name
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy/prometheus-rules.yml").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [
        rule["expr"] for group in rules["groups"] for rule in group["rules"]
    ]


def test_rules_dashboard_and_page_name_metrics_that_exist(metrics: Metrics) -> None:
    import re

    known = known_names(metrics)
    for expression in expressions():
        named = set(re.findall(rf"{PREFIX}\w+", expression))
        assert named <= known
        assert named or "up{" in expression
    page = set(re.findall(rf"`({PREFIX}\w+)", (ROOT / "docs/metrics.md").read_text()))
    base = {name for name in known if not name.endswith(("_created", "_bucket", "_count", "_sum"))}
    assert page == base | {f"{PREFIX}poll_duration_seconds", f"{PREFIX}event_delay_seconds"}
    stream = set(re.findall(rf"`({PREFIX}\w+)", (ROOT / "docs/stream.md").read_text()))
    assert stream == {name for name in page if "stream" in name or "event" in name}


def test_the_page_names_every_alert() -> None:
    import re

    rules = yaml.safe_load((ROOT / "deploy/prometheus-rules.yml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    assert re.findall(r"^\| `(Kalshi\w+)` \|", page, re.MULTILINE) == alerts


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is missing")
def test_promtool_accepts_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", ROOT / "deploy/prometheus-rules.yml"], check=True)
