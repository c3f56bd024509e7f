"""Fixtures of the tests that talk to a server: pytest looks for them here."""

from tests.support.servers import (
    answering,
    connect,
    dripping,
    exchange,
    exchange_over_tls,
    keys,
)

__all__ = ["answering", "connect", "dripping", "exchange", "exchange_over_tls", "keys"]
