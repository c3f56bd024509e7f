"""Check what `[metrics]` needs: the library, the port, the file."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from exporter import wiring
from exporter.config.model import Configuration
from exporter.doctor.finding import Finding, failed
from exporter.doctor.rehearsal import try_directory
from exporter.errors import ConfigurationError, Exit
from exporter.permissions import explain_directory

_SUBJECT = "metrics"
_SECONDS = 2.0  # how long a running daemon may take to respond


def check_metrics(configuration: Configuration) -> Iterator[Finding]:
    """Check the configured metrics, if there are any."""
    wanted = configuration.metrics
    if wanted is None:
        return
    try:
        wiring.metrics_of(configuration, dict, process=False)
    except ConfigurationError as error:
        yield failed(_SUBJECT, error)
        return
    yield _address(wanted.host, wanted.port)
    if wanted.textfile is not None:
        yield _textfile(wanted.textfile)


def _address(host: str, port: int) -> Finding:
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            return Finding(subject=_SUBJECT, text=f"{host} port {port} is free for the daemon")
    except OSError as error:
        if _is_served_by_us(host, port):
            return Finding(subject=_SUBJECT, text=f"a daemon serves them on {host} port {port}")
        return _wrong(
            f"cannot listen on {host} port {port}: {error.strerror or error}: name another port in"
            " metrics.listen, or stop the program that uses this one"
        )


def _is_served_by_us(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    with suppress(OSError, http.client.HTTPException):
        try:
            connection.request("HEAD", "/livez")
            return connection.getresponse().getheader("Server", "").startswith("kalshi-exporter")
        finally:
            connection.close()
    return False


def _textfile(path: Path) -> Finding:
    reason = explain_directory(path.parent, write=True)
    if reason is None and path.is_dir():
        reason = f"{path} is a directory: name a file in it"
    if reason is None:
        try:
            try_directory(path.parent)
        except OSError as error:
            reason = f"{path.parent}: {error.strerror}: make room there"
    if reason is not None:
        return _wrong(f"metrics.textfile cannot be written: {reason}")
    return Finding(subject=_SUBJECT, text=f"{path} can be written")


def _wrong(text: str) -> Finding:
    return Finding(subject=_SUBJECT, text=text, exit_code=Exit.CONFIGURATION)
