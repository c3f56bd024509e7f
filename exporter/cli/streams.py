"""Standard streams that are closed, full or in any encoding: commands write to them alike."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

CLOSED_PIPE = 128 + signal.SIGPIPE
"""The exit code when the reader of the output goes away, as a shell reports `cat … | head`."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit code after Ctrl-C, as a shell reports it."""


class ClosedPipeError(Exception):
    """The reader of the output went away."""


@contextmanager
def closed_pipe_named() -> Iterator[None]:
    """Replace BrokenPipeError, because Click would end the process with exit code 1.

    Monitoring reads that code as "stale".

    Raises:
        ClosedPipeError: in its place.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipeError from error


def prepare() -> None:
    """Open the streams that are closed, and make every encoding show every character.

    A character that the encoding lacks is written as an escape such as `\\u2026`.
    """
    # Otherwise the next file that is opened, such as a database, would become the standard output.
    # Writing to a closed output fails, as it does in any other program.
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # until the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # the same
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def finish() -> None:
    """Discard what could not be written; Python would try again at exit, and print an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream.fileno())


def discard(descriptor: int) -> None:
    """Redirect a descriptor to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def answer(text: str) -> None:
    """Write a line of a command's output to standard output, without any secret.

    Raises:
        OSError: it cannot be written.
    """
    click.echo(_redacted(text))


def warn(text: str) -> None:
    """Write a line to standard error; a standard error that fails changes nothing."""
    with suppress(OSError):
        click.echo(_redacted(text), err=True)


def complain(fault: str) -> None:
    """Write one printable line about an error to standard error."""
    printable = "".join(character if character.isprintable() else " " for character in fault)
    warn(f"kalshi-exporter: {' '.join(printable.split())}")


def writing_failed(error: OSError) -> bool:
    """Tell whether an error comes from writing to standard output, rather than from a command."""
    import traceback

    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"] in {click.utils.__name__, "exporter.cli.support"}


def _redacted(text: str) -> str:
    from exporter.logs import redaction  # `--help` needs Click alone

    return redaction.redact(text)


def show(error: click.ClickException) -> None:
    """Explain wrong usage on standard error, as Click does."""
    with suppress(OSError):
        error.show()
