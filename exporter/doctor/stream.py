"""Subscribe to the exchange's events, once for each API key and exchange."""

from collections.abc import Iterator, Mapping

from exporter.clock import Clock, elapsed
from exporter.config.model import Configuration
from exporter.doctor.finding import Finding, failed
from exporter.errors import ConfigurationError, Exit, StreamError
from exporter.kalshi.keys import SigningKey
from exporter.recording.stream_source import StreamSource, sources_of


def check_stream(configuration: Configuration, keys: Mapping[str, SigningKey]) -> Iterator[Finding]:
    """Make the connections that a daemon would make, subscribe, and say what came of it.

    Args:
        configuration: whose accounts are listened for, as far as their `stream` says so.
        keys: of the accounts whose key can be used.
    """
    accounts = [account for account in configuration.accounts if account.name in keys]
    for source in sources_of(accounts, keys, configuration.http.proxy):
        yield _subscribe(source)


def _subscribe(source: StreamSource) -> Finding:
    # Only here and in the daemon's stream: these are slow to import.
    import asyncio  # noqa: PLC0415

    from exporter.http.tls import ssl_context  # noqa: PLC0415
    from exporter.kalshi.stream_connection import StreamConnection  # noqa: PLC0415

    async def subscribe() -> None:
        async with StreamConnection(
            source.url,
            key_id=source.key_id,
            key=source.key,
            now=Clock().now,
            tls=ssl_context(),
            proxy=source.proxy,
        ):
            pass

    subject = f"stream of {source.names}"
    began = elapsed()
    try:
        asyncio.run(subscribe())
    except StreamError as error:
        return Finding(
            subject=subject,
            text=f"{error}; polls do not need it: stream = false if nobody shall listen",
            exit_code=Exit.UNAUTHORIZED if error.cause == "unauthorized" else error.exit_code,
        )
    except ConfigurationError as error:
        return failed(subject, error)
    return Finding(subject=subject, text=f"subscribed at {source.url} in {elapsed() - began:.2f} s")
