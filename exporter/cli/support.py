"""What the commands have in common: how they end, the configuration, the types of options.

Only Click is imported here, as in `cli`.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from exporter.errors import ConfigurationError, Exit, ExporterError

if TYPE_CHECKING:
    from datetime import datetime

    from exporter.config.model import Configuration


class Commands(click.Group):
    """A group whose commands end in one line and an exit code, never in a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # Click's signature
        """List commands in the order in which they were added: that of a user's day."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn its errors into lines and exit codes."""
        try:
            code = super().invoke(ctx)
        except ConfigurationError as error:
            for fault in error.faults:
                _complain(fault)
            code = error.exit_code
        except ExporterError as error:
            _complain(str(error))
            code = error.exit_code
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise click.Abort from None
        except Exception as error:
            if _standard_output_failed(error):
                code = Exit.DATABASE
            elif os.environ.get("KALSHI_EXPORTER_TRACEBACK"):
                raise
            else:
                _complain(
                    f"unexpected {type(error).__name__}: {error}; please report it, with what"
                    " KALSHI_EXPORTER_TRACEBACK=1 shows"
                )
                code = Exit.FAILURE
        ctx.exit(int(code or 0))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program; `--help` and `--version` come here, before `invoke`."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if not _standard_output_failed(error):
                raise
            sys.exit(Exit.DATABASE)


def _standard_output_failed(error: BaseException) -> bool:
    """Whether it was Click that failed, writing an answer: on a full disk, say."""
    if not isinstance(error, OSError):
        return False
    import traceback

    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals["__name__"] != click.utils.__name__:
        return False
    # Else Python tries again at its end, and complains once more.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    _complain(f"cannot write to standard output: {error.strerror or error}")
    return True


def _complain(text: str) -> None:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    click.echo(f"kalshi-exporter: {line}", err=True)


def _leave_no_core() -> None:
    """Let no crash write this process's memory to a disk: keys and passwords will be in it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


class Context:
    """What the global options said; the configuration is read when a command asks for it."""

    def __init__(self, path: str, log_level: str | None, log_format: str | None) -> None:
        self._path = path
        self._log_level = log_level
        self._log_format = log_format

    def configuration(self) -> "Configuration":
        """Read the configuration, and log as it says."""
        configuration = self.load()
        self.adopt(configuration)
        return configuration

    def load(self) -> "Configuration":
        """Read the configuration."""
        from pathlib import Path

        from exporter.config.load import load

        _leave_no_core()
        return load(Path(self._path))

    def adopt(self, configuration: "Configuration") -> None:
        """Log as this configuration says."""
        from exporter.logs import redaction, setup

        for secret in configuration.secrets:
            redaction.protect(secret)
        setup.configure(
            self._log_level or configuration.log.level,
            self._log_format or configuration.log.format,
        )


class Duration(click.ParamType[float]):
    """Seconds, typed as 90s, 5m, 1h or 2d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; Click calls this."""
        from exporter.config.values import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Instant(click.ParamType["datetime"]):
    """An instant in UTC; says so on stderr where UTC had to be assumed."""

    name = "instant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "datetime":
        """Read it; Click calls this."""
        from exporter.reading.instants import parse_instant

        try:
            instant, assumed = parse_instant(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if assumed:
            click.echo(f"{value} is taken as UTC: {instant:%Y-%m-%dT%H:%M:%SZ}", err=True)
        return instant
