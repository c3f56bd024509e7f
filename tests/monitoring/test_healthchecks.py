"""Test the dead man's switch against a local server that records the pings it receives."""

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from exporter.config.load import load
from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange
from exporter.errors import ConfigurationError
from exporter.hooks import AccountsChanged, DaemonReady, TickSkipped
from exporter.monitoring import healthchecks
from exporter.monitoring.health import Health
from exporter.monitoring.healthchecks import DaemonHealth, Healthcheck
from tests.support.certificates import self_signed
from tests.support.keys import write_key
from tests.support.processes import ending

if TYPE_CHECKING:
    from tests.conftest import RunCli, WriteConfig

TIMEOUT = 60.0  # seconds; a test normally waits one or two


@dataclass(frozen=True)
class Ping:
    """A ping that the service received."""

    method: str
    path: str
    run_id: str
    body: str


class Service:
    """A local stand-in for healthchecks.io."""

    def __init__(self) -> None:
        self.pings: list[Ping] = []
        self.status = 200
        self.closing = threading.Event()
        self.hangs = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                run_id = parse_qs(parts.query)["rid"][0]
                service.pings.append(Ping(self.command, parts.path, run_id, body))
                if service.hangs:
                    service.closing.wait(TIMEOUT)
                self.send_response(service.status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815  # http.server requires this name

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up
        self.url = f"http://127.0.0.1:{self._server.server_port}/ping/0123-secret"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def use_tls(self, certificate: Path, key: rsa.RSAPrivateKey) -> None:
        key_file = write_key(certificate.with_suffix(".key"), key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def received(self) -> list[str]:
        """Return the method and suffix of each ping, without the secret address."""
        return [f"{ping.method} {ping.path.partition('0123-secret')[2]}" for ping in self.pings]

    def wait_for(self, *expected: str) -> None:
        until = time.monotonic() + TIMEOUT
        while self.received[: len(expected)] != list(expected):
            assert time.monotonic() < until, self.received
            time.sleep(0.02)


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def test_a_run_reports_its_start_and_its_success(
    write_config: "WriteConfig", run_cli: "RunCli", service: Service
) -> None:
    config = write_config(notify={"healthcheck_url": service.url})
    assert run_cli("--config", config, "run-once").returncode == 0
    assert service.received == ["GET /start", "GET "]
    assert len({ping.run_id for ping in service.pings}) == 1
    assert str(uuid.UUID(service.pings[0].run_id)) == service.pings[0].run_id


def test_a_run_reports_its_exit_code_and_its_reason(
    write_config: "WriteConfig",
    run_cli: "RunCli",
    service: Service,
    exchange: Exchange,
    key_id: str,
) -> None:
    exchange.script(key_id, Answer.unauthorized())
    config = write_config(notify={"healthcheck_url": service.url})
    assert run_cli("--config", config, "run-once").returncode == 77
    assert service.received == ["GET /start", "POST /77"]
    assert service.pings[1].body == "credentials refused: accounts[0] unauthorized"


def test_a_fault_before_the_first_poll_is_reported(
    write_config: "WriteConfig", run_cli: "RunCli", service: Service
) -> None:
    config = write_config(
        notify={"healthcheck_url": service.url}, account={"private_key_file": "gone.pem"}
    )
    assert run_cli("--config", config, "run-once").returncode == 78
    assert service.received == ["GET /start", "POST /78"]
    assert service.pings[1].body == "error in the configuration, a key or the schema"


@pytest.mark.parametrize("fault", ["gone", "hangs", "500", "redirect"])
def test_a_failing_switch_harms_no_poll_and_logs_one_line(
    write_config: "WriteConfig", run_cli: "RunCli", service: Service, fault: str
) -> None:
    url = service.url
    if fault == "gone":
        url = "http://127.0.0.1:1/ping/0123-secret"
    service.hangs = fault == "hangs"
    service.status = {"500": 500, "redirect": 302}.get(fault, 200)
    config = write_config(notify={"healthcheck_url": url})
    began = time.monotonic()
    finished = run_cli("--config", config, "--log-level", "WARNING", "run-once")
    assert finished.returncode == 0
    assert time.monotonic() - began < 30  # 8 s, and a start on a busy machine
    (line,) = finished.stderr.splitlines()
    assert "healthcheck_failed: the healthcheck could not be pinged; polls go on" in line
    assert "secret" not in finished.stderr


def test_runs_that_overlap_raise_no_alarm(
    write_config: "WriteConfig",
    run_cli: "RunCli",
    service: Service,
    exchange: Exchange,
    key_id: str,
) -> None:
    config = write_config(
        notify={"healthcheck_url": service.url}, poll={"interval": "60s", "deadline": "40s"}
    )
    assert run_cli("--config", config, "run-once").returncode == 0
    exchange.script(key_id, Answer.hang(60))
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", "--config", str(config), "run-once"],
        stderr=subprocess.DEVNULL,
    ) as other:
        exchange.wait_for_requests(2, seconds=TIMEOUT)
        assert run_cli("--config", config, "run-once").returncode == 75
        other.kill()
    assert service.received == ["GET /start", "GET ", "GET /start", "GET /start", "POST /log"]
    assert service.pings[-1].body == "another exporter is polling"


def test_the_daemon_reports_success_or_the_reason_for_failure(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthchecks, "_PERIOD", 1.0)
    health = Health()
    switch = DaemonHealth(Healthcheck(service.url), health)
    for listener in (health, switch):
        listener.receive(AccountsChanged({"main": 1.0}))
    switch.receive(DaemonReady())
    service.wait_for("GET /start", "POST /1")
    assert service.pings[1].body == "failure: accounts[0] no success yet"
    health.receive(TickSkipped("main"))
    service.wait_for("GET /start", "POST /1", "GET ")
    switch.close(78)
    assert service.received[-1] == "POST /78"
    assert service.pings[-1].body == "error in the configuration, a key or the schema"


def test_a_daemon_that_is_stopped_sends_no_last_ping(
    write_config: "WriteConfig", service: Service
) -> None:
    config = write_config(notify={"healthcheck_url": service.url})
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "--config", str(config), "daemon"],
        stderr=subprocess.DEVNULL,
    )
    with ending(process):
        # The success ping comes once every account has been polled, not a minute later.
        service.wait_for("GET /start", "GET ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert service.received == ["GET /start", "GET "]


def test_nothing_of_the_configuration_reaches_the_service(
    write_config: "WriteConfig",
    run_cli: "RunCli",
    service: Service,
    exchange: Exchange,
    key_id: str,
) -> None:
    accounts = [
        {"name": "second name"},
        {"name": "third name", "base_url": "http://127.0.0.1:1/trade-api/v2"},
    ]
    exchange.script(key_id, *[Answer.unauthorized()] * 4)
    for database in ("sqlite:///missing-directory/order_groups.db", None):
        config = write_config(
            notify={"healthcheck_url": service.url},
            database_url=database,
            account={"name": "first name"},
            more_accounts=accounts,
        )
        assert run_cli("--config", config, "run-once").returncode > 0
    written = re.findall(r"\"(.*?)\"|([\w./-]*name)", config.read_text())
    values = {value for pair in written for value in pair if len(value) > 2}
    bodies = [ping.body for ping in service.pings]
    assert any("accounts[2] unreachable" in body for body in bodies)
    assert not any(value in body for value in values for body in bodies)


@pytest.mark.parametrize(
    ("variables", "arrives"),
    [
        (("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), True),
        (("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), False),
    ],
)
def test_ssl_cert_file_overrides_requests_ca_bundle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    service: Service,
    variables: tuple[str, str],
    arrives: bool,
) -> None:
    names_service, _ = variables
    for name in variables:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = tmp_path / f"{name}.pem"
        certificate.write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
        monkeypatch.setenv(name, str(certificate))
        if name == names_service:
            service.use_tls(certificate, key)
    switch = Healthcheck(service.url.replace("http://", "https://"))
    switch.start()
    switch.succeed()
    switch.close()
    assert service.received == (["GET /start", "GET "] if arrives else [])


@pytest.mark.parametrize(
    "url", ["http://hc-ping.com/x", "ftp://hc-ping.com/x", "https://u:hush@hc-ping.com/x", "x"]
)
def test_an_unsafe_or_invalid_address_is_refused(write_config: "WriteConfig", url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"notify\.healthcheck_url") as caught:
        load(write_config(notify={"healthcheck_url": url}), os.environ)
    assert "hush" not in str(caught.value)


def test_the_address_is_shown_nowhere(write_config: "WriteConfig") -> None:
    url = "https://hc-ping.com/0123-secret"
    configuration = load(write_config(notify={"healthcheck_url": url}), {})
    assert configuration.notify.healthcheck_url == url
    assert "0123-secret" not in repr(configuration)
    assert {url, "0123-secret"} <= set(configuration.secrets)
