"""Kalshi's two exchanges: the paths of their order groups, and their WebSockets.

https://docs.kalshi.com/getting_started/api_environments lists the hosts.
"""

from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

ExchangeName: TypeAlias = Literal["predictions", "margin"]

ORDER_GROUPS_PATHS: Final[dict[ExchangeName, str]] = {
    "predictions": "/portfolio/order_groups",
    "margin": "/margin/order_groups",
}
"""By exchange: the path after the base URL, which is the same for both."""

STREAM_URLS: Final[dict[ExchangeName, dict[str, str]]] = {
    "predictions": {
        "production": "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
        "demo": "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
    },
    "margin": {
        "production": "wss://external-api-margin-ws.kalshi.com/trade-api/ws/v2/margin",
        "demo": "wss://external-api-margin-ws.demo.kalshi.co/trade-api/ws/v2/margin",
    },
}
"""By exchange and environment."""

_REST_PATH = "/trade-api/v2"
_STREAM_PATHS: dict[ExchangeName, str] = {
    "predictions": "/trade-api/ws/v2",
    "margin": "/trade-api/ws/v2/margin",
}


def stream_url(exchange: ExchangeName, *, environment: str | None, base_url: str) -> str:
    """Return the URL of the WebSocket of an account whose configuration names none.

    Args:
        exchange: of the account.
        environment: "production" or "demo"; None if the configuration gives a base URL instead.
        base_url: whose host, port and prefix hold if there is no environment, as https or http.
    """
    if environment is not None:
        return STREAM_URLS[exchange][environment]
    url = urlsplit(base_url)
    prefix = url.path.rstrip("/").removesuffix(_REST_PATH)
    scheme = {"https": "wss", "http": "ws"}[url.scheme]
    return urlunsplit((scheme, url.netloc, prefix + _STREAM_PATHS[exchange], "", ""))
