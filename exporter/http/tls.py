"""Find the certificate authorities that requests, the WebSocket and healthchecks trust."""

import os
import ssl
from pathlib import Path

from exporter.errors import ConfigurationError

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Environment variables that may name a file or a directory; the first one that is set wins."""


def certificate_authorities() -> str | None:
    """Return the path of the authorities that the environment names; None for certifi's.

    requests would read these variables only together with .netrc and the proxies' variables.

    Raises:
        ConfigurationError: the variable names a file that does not exist.
    """
    for name in VARIABLES:
        if path := os.environ.get(name):
            try:
                Path(path).stat()
            except OSError as error:
                raise ConfigurationError(
                    f"{name} names {path}, which cannot be used: {error.strerror}"
                ) from None
            return path
    return None


def ssl_context() -> ssl.SSLContext:
    """Return a context that verifies servers by the same authorities as requests does.

    Raises:
        ConfigurationError: the environment names authorities that cannot be read.
    """
    path = certificate_authorities()
    if path is None:
        import certifi  # noqa: PLC0415  # requests' default; only the daemon's streams come here

        path = certifi.where()
    try:
        if Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificate authorities in {path} cannot be read: {error.strerror or error}"
        ) from error
