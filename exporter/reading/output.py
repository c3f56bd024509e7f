"""Write a result to standard output, or to a file that appears whole or not at all."""

import os
import secrets
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

from exporter.errors import Exit, ExporterError

_CLOSED_PIPE = 128 + signal.SIGPIPE


class OutputError(ExporterError):
    """A result could not be written to its file or to standard output."""

    exit_code: ClassVar[Exit] = Exit.DATABASE


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open the output for a result; a file takes its place only at the end of the block.

    The new file replaces an existing one in one step and keeps its mode; otherwise the umask gives
    the mode. Anything but a regular file, such as `/dev/null` or a pipe, is written to directly.
    If the block fails, an existing file stays as it was, and no other file is left.

    Args:
        path: None for standard output.

    Raises:
        OutputError: it cannot be written.
        SystemExit: whoever reads it went away early (`| head`): 141, as a shell reports it.
    """
    if path is None:
        with _standard_output() as sink:
            yield sink
        return
    try:
        with ended_by_signals(), _file(path) as sink:
            yield sink
    except BrokenPipeError:
        sys.exit(_CLOSED_PIPE)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make a signal that ends the process end the block first, so that it can clean up."""
    ending = (signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)  # as a shell reports it

    # A signal that is ignored stays ignored, as nohup needs it.
    before = {
        number: signal.signal(number, end)
        for number in ending
        if signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    sink = sys.stdout.buffer
    try:
        yield sink
        sink.flush()
    except BrokenPipeError:
        # Otherwise Python would try to flush again at exit, and print an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sink.fileno())
        os.close(nowhere)
        sys.exit(_CLOSED_PIPE)
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as sink:
            yield sink
        return
    path = path.resolve()  # a link stays one
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with beside.open("xb") as sink:
        try:
            if mode is not None:
                beside.chmod(stat.S_IMODE(mode))
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink()
            raise
