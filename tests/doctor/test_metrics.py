"""`check` finds what would prevent the metrics from being served or written."""

import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.config.load import load
from exporter.doctor.metrics import check_metrics
from exporter.monitoring.endpoint import Endpoint
from exporter.monitoring.health import Health
from exporter.monitoring.metrics import Metrics
from tests.support import processes

if TYPE_CHECKING:
    from tests.conftest import WriteConfig


@pytest.fixture
def free_port() -> int:
    return processes.free_port()


def found(write_config: "WriteConfig", **metrics: Any) -> list[tuple[int, str]]:
    """Return the exit code and the text of each finding."""
    config = load(write_config(base_url="http://127.0.0.1:1/trade-api/v2", metrics=metrics))
    return [(int(each.exit_code), each.text) for each in check_metrics(config)]


def test_a_free_port_and_a_file_that_can_be_written(
    write_config: "WriteConfig", free_port: int, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    path = tmp_path / "kalshi.prom"
    assert found(write_config, listen=f"127.0.0.1:{free_port}", textfile=path) == [
        (0, f"127.0.0.1 port {free_port} is free for the daemon"),
        (0, f"{path} can be written"),
    ]
    assert {*tmp_path.iterdir()} - {*before} == {tmp_path / "config.toml"}


def test_a_port_that_another_program_uses(write_config: "WriteConfig") -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        ((code, text),) = found(write_config, listen=f"127.0.0.1:{port}")
    assert code == 78
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in text


def test_a_port_that_a_running_daemon_serves(write_config: "WriteConfig", free_port: int) -> None:
    metrics = Metrics(dict, process=False)
    with closing(Endpoint(metrics, Health(), "127.0.0.1", free_port)) as endpoint:
        endpoint.start()
        assert found(write_config, listen=f"127.0.0.1:{free_port}") == [
            (0, f"a daemon serves them on 127.0.0.1 port {free_port}")
        ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent/kalshi.prom", "absent does not exist: create it"),
        ("", "is a directory: name a file in it"),
        ("config.toml/kalshi.prom", "config.toml is not a directory"),
    ],
)
def test_a_file_that_cannot_be_written(
    write_config: "WriteConfig", free_port: int, tmp_path: Path, name: str, said: str
) -> None:
    listen = f"127.0.0.1:{free_port}"
    _, (code, text) = found(write_config, listen=listen, textfile=tmp_path / name)
    assert code == 78
    assert said in text
