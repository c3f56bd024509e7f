"""`check` subscribes to the stream once, and reports the result."""

from typing import TYPE_CHECKING

import pytest

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import RunCli, WriteConfig

LISTEN = {"enabled": True}


def test_accounts_that_share_a_key_are_subscribed_once(
    exchange: Exchange, key_id: str, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    config = write_config(
        stream=LISTEN, more_accounts=[{"name": "shares"}, {"name": "deaf", "stream": False}]
    )
    finished = run_cli("--config", config, "check")
    assert finished.returncode == 0
    (line,) = [each for each in finished.stdout.splitlines() if "stream of" in each]
    assert "stream of main, shares: subscribed at ws://127.0.0.1:" in line
    assert [each.key_id for each in exchange.handshakes] == [key_id]
    assert exchange.channel(key_id).subscribers == 0


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer.unauthorized(), 77, "401"),
        (Answer.redirect("http://127.0.0.1:1/elsewhere"), 69, "redirects are not followed"),
        (Answer.server_error(503), 69, "503"),
    ],
)
def test_a_refused_handshake_is_reported_with_a_remedy(
    exchange: Exchange,
    key_id: str,
    write_config: "WriteConfig",
    run_cli: "RunCli",
    answer: Answer,
    code: int,
    words: str,
) -> None:
    exchange.script_handshakes(key_id, answer)
    finished = run_cli("--config", write_config(stream=LISTEN), "check")
    assert finished.returncode == code
    (line,) = [each for each in finished.stdout.splitlines() if "stream of main" in each]
    assert words in line
    assert "stream = false" in line


def test_offline_makes_no_connection(
    exchange: Exchange, write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    assert run_cli("--config", write_config(stream=LISTEN), "check", "--offline").returncode == 0
    assert exchange.handshakes == []
