"""Makes the fixtures with a server available to the tests in this folder."""

from tests.support.servers import (
    answering,
    connect,
    dripping,
    exchange,
    exchange_over_tls,
    keys,
)

__all__ = ["answering", "connect", "dripping", "exchange", "exchange_over_tls", "keys"]
