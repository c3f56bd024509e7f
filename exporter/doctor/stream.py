"""Subscribe to the exchange's events, once for each API key and exchange."""

from collections.abc import Iterator, Mapping

from exporter.clock import Clock, elapsed
from exporter.config.model import Configuration
from exporter.doctor.finding import Finding, failed
from exporter.errors import ConfigurationError, Exit, StreamError
from exporter.kalshi.keys import SigningKey
from exporter.recording.stream_source import StreamSource, sources_of


def check_stream(configuration: Configuration, keys: Mapping[str, SigningKey]) -> Iterator[Finding]:
    """Make the connections that a daemon would make, subscribe, and report the results.

    Args:
        configuration: the accounts, and which of them listen to the stream.
        keys: the keys by account name; accounts without a usable key are left out.
    """
    accounts = [account for account in configuration.accounts if account.name in keys]
    for source in sources_of(accounts, keys, configuration.http.proxy):
        yield _subscribe(source)


def _subscribe(source: StreamSource) -> Finding:
    # These are slow to import, and only `check` and the daemon's stream need them.
    import asyncio  # noqa: PLC0415  # see above

    from exporter.http.tls import ssl_context  # noqa: PLC0415  # see above
    from exporter.kalshi.stream_connection import StreamConnection  # noqa: PLC0415  # see above

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
            text=f"{error}; polls do not need the stream: set stream = false to do without it",
            exit_code=Exit.UNAUTHORIZED if error.cause == "unauthorized" else error.exit_code,
        )
    except ConfigurationError as error:
        return failed(subject, error)
    return Finding(subject=subject, text=f"subscribed at {source.url} in {elapsed() - began:.2f} s")
