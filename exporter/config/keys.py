"""The table of all configuration keys: what each may hold, its default and what it means.

`load` reads files by it, and `faults` takes its hints from it; `values` and `urls` have the kinds.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from exporter.config.urls import BASE_URL, DATABASE_URL, HEALTHCHECK_URL, PROXY, STREAM_URL
from exporter.config.values import (
    ACCOUNT_NAME,
    BOOLEAN,
    KEY_FILE,
    KEY_ID,
    LISTEN,
    PATH,
    Kind,
    choice,
    count,
    duration,
    integer,
    size,
)

ENVIRONMENTS: Mapping[str, str] = {
    "production": "https://external-api.kalshi.com/trade-api/v2",
    "demo": "https://external-api.demo.kalshi.co/trade-api/v2",
}


class Key(msgspec.Struct, frozen=True):
    """One key of the file.

    Attributes:
        meaning: shown to an operator beside a fault.
        default: as the file would have it; None if the key may be absent, or is required.
        for_history: whether commands that send nothing to the exchange need it.
    """

    name: str
    kind: Kind
    meaning: str
    default: str | int | bool | None = None
    required: bool = False
    for_history: bool = True


POLL = (
    Key("interval", duration("100ms", "1d"), "how often an account is polled", "60s"),
    Key("deadline", duration("1ms", "10m"), "how long one whole poll may take", "20s"),
    Key("max_attempts", integer(1, 10), "how often one request is tried within the deadline", 4),
    Key(
        "max_response_size",
        size("1KiB", "1GiB"),
        "the largest answer accepted, after decompression",
        "64MiB",
    ),
    Key(
        "confirm_removal",
        integer(1, 100),
        "how many complete polls must miss a group before it counts as removed",
        2,
    ),
)

SECTIONS: Mapping[str, tuple[Key, ...]] = {
    "database": (
        Key("url", DATABASE_URL, "where the history is kept", "sqlite:///order_groups.db"),
        Key(
            "auto_migrate",
            BOOLEAN,
            "whether the schema is brought to this version without being asked",
            default=True,
        ),
    ),
    "poll": POLL,
    "stream": (
        Key("enabled", BOOLEAN, "whether the daemon listens to the accounts' events", default=True),
    ),
    "http": (
        Key(
            "proxy",
            PROXY,
            "the proxy through which the exchange is reached, absent for none",
            for_history=False,
        ),
    ),
    "spool": (
        Key("directory", PATH, "where observations wait while the database is away", "spool"),
        Key("max_size", size("1MiB", "1024GiB"), "how much may wait there", "256MiB"),
    ),
    "log": (
        Key(
            "level",
            choice("DEBUG", "INFO", "WARNING", "ERROR"),
            "the least important lines that are logged",
            "INFO",
        ),
        Key("format", choice("text", "json"), "how a log line looks", "text"),
    ),
    "metrics": (
        Key(
            "listen",
            LISTEN,
            "where the daemon answers Prometheus",
            "127.0.0.1:9464",
            for_history=False,
        ),
        Key(
            "textfile",
            PATH,
            "the file that run-once leaves for node_exporter",
            for_history=False,
        ),
    ),
    "notify": (
        Key(
            "healthcheck_url",
            HEALTHCHECK_URL,
            "the address that is told whether all is well",
            for_history=False,
        ),
    ),
}

ACCOUNT = (
    Key(
        "name",
        ACCOUNT_NAME,
        "what the account is called in the database, for good",
        required=True,
    ),
    *(
        replace(key, for_history=False)
        for key in (
            Key(
                "environment",
                choice(*ENVIRONMENTS),
                "which of Kalshi's environments the key belongs to",
            ),
            Key("base_url", BASE_URL, "the API's address, instead of environment"),
            Key(
                "exchange",
                choice("predictions", "margin"),
                "which exchange of that environment has the order groups",
                "predictions",
            ),
            Key("key_id", KEY_ID, "the id that Kalshi shows beside the API key", required=True),
            Key(
                "private_key_file",
                KEY_FILE,
                "the private key that Kalshi gave once, as a PEM file",
                required=True,
            ),
            Key(
                "private_key_passphrase_file",
                PATH,
                "a file with the passphrase of an encrypted private key",
            ),
            Key("subaccount", count(), "the one subaccount to poll, absent for all"),
            Key("stream", BOOLEAN, "whether the daemon listens to this account's events"),
            Key("stream_url", STREAM_URL, "the WebSocket's address, absent to derive it"),
        )
    ),
)
