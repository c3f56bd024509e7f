"""The demo's market is repeatable, and soon does everything that it can do."""

import base64
import time
from typing import TYPE_CHECKING

import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from exporter.demo.exchange import Exchange
from exporter.demo.market import Market

if TYPE_CHECKING:
    from tests.conftest import KeyPair

ROUND = 20
"""The number of steps within which everything happens once."""


def ask(session: requests.Session, exchange: Exchange, key_pair: "KeyPair") -> str:
    """Send one correctly signed request, and classify the response.

    Returns:
        `true` if it lists all groups, `blink` if one is missing, `reset` if the connection was,
        else the status and the content type.
    """
    timestamp = str(int(time.time() * 1000))
    signature = key_pair.private_key.sign(
        f"{timestamp}GET/trade-api/v2/portfolio/order_groups".encode(),
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH),
        hashes.SHA256(),
    )
    headers = {
        "KALSHI-ACCESS-KEY": key_pair.key_id,
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
    }
    url = exchange.base_url + "/portfolio/order_groups"
    try:
        answer = session.get(url, headers=headers, timeout=10)
    except requests.ConnectionError:
        return "reset"
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.headers['Content-Type']}"
    seen = answer.json()["order_groups"]
    listing = exchange.groups(key_pair.key_id).listing()
    if seen == listing:
        return "true"
    assert len(seen) == len(listing) - 1
    assert all(group in listing for group in seen)
    return "blink"


def test_the_same_seed_gives_the_same_steps() -> None:
    def play(seed: int) -> tuple[list[str], list[dict[str, object]]]:
        with Exchange() as exchange:
            market = Market(exchange, "key", seed)
            lines = [market.step() for _ in range(3 * ROUND)]
            return lines, exchange.groups("key").listing()

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_everything_happens_within_a_round(exchange: Exchange, key_pair: "KeyPair") -> None:
    market = Market(exchange, key_pair.key_id, seed=7)
    lines = "\n".join(market.step() for _ in range(ROUND))
    for happening in (
        "is created with a limit of",
        "the limit of group",
        "triggers",
        "is reset",
        "is deleted",
        "is missing from the next response",
    ):
        assert happening in lines
    found = []
    with requests.Session() as session:
        session.trust_env = False
        while exchange.scripted(key_pair.key_id):
            found.append(ask(session, exchange, key_pair))
        assert ask(session, exchange, key_pair) == "true"
    assert set(found) == {
        "429 application/json",
        "500 application/json",
        "503 text/html",
        "reset",
        "blink",
    }


def test_every_step_changes_something(exchange: Exchange, key_pair: "KeyPair") -> None:
    market = Market(exchange, key_pair.key_id, seed=3)
    groups = exchange.groups(key_pair.key_id)
    for _ in range(5 * ROUND):
        before = groups.body(), exchange.scripted(key_pair.key_id)
        line = market.step()
        after = groups.body(), exchange.scripted(key_pair.key_id)
        # A trigger that is reset at once shows only in the events.
        assert (after != before) is not line.endswith("triggers, and is reset at once"), line


def test_a_market_without_groups_creates_some(exchange: Exchange, key_pair: "KeyPair") -> None:
    market = Market(exchange, key_pair.key_id, seed=5, initial_groups=0)
    for _ in range(5 * ROUND):
        market.step()
    assert exchange.groups(key_pair.key_id).listing()
