"""Report the proxy, and warn of proxies in the environment, which the exporter does not read."""

import os
from collections.abc import Iterator

from exporter.config.model import Configuration
from exporter.doctor.finding import Finding
from exporter.http.proxy import PROXY_VARIABLES


def check_proxy(configuration: Configuration) -> Iterator[Finding]:
    """Report the configured proxy, or warn that the environment's proxy is not read."""
    subject = "proxy"
    proxy = configuration.http.safe_proxy
    if proxy is not None:
        yield Finding(subject=subject, text=f"{proxy}, for all requests and the stream")
        return
    named = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    if named:
        yield Finding(
            subject=subject,
            text=f"{' and '.join(named)} in the environment is not read: if the exchange can be"
            ' reached through a proxy alone, set proxy = "http://host:port" under [http]',
            doubtful=True,
        )
