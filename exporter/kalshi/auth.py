"""Sign requests and WebSocket handshakes: both carry the same three headers."""

import time

from exporter.kalshi.keys import SigningKey

SECRET_HEADERS = ("KALSHI-ACCESS-KEY", "KALSHI-ACCESS-SIGNATURE")
"""Headers whose values never reach errors or logs."""


def auth_headers(key_id: str, key: SigningKey, path: str) -> dict[str, str]:
    """Return the headers that authenticate one GET, valid for a few seconds.

    https://docs.kalshi.com/getting_started/api_keys defines the signed text. The timestamp is part
    of it, so every request and every handshake needs headers of its own.

    Args:
        key_id: as the exchange issued it.
        key: signs the request.
        path: as sent, without the query, such as "/trade-api/ws/v2".
    """
    timestamp = str(int(time.time() * 1000))
    return {
        "KALSHI-ACCESS-KEY": key_id,
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": key.sign(f"{timestamp}GET{path}".encode()),
    }
