"""The parts that commands share: how they end, the configuration, the types of their options.

Only Click is imported here: `--help` needs no more, and cron pays for every import each minute.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from exporter.cli import streams
from exporter.errors import ConfigurationError, Exit, ExporterError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from exporter.config.model import Account, Configuration, HistoryConfiguration


class Command(click.Command):
    """A command that says where a global option belongs when it is given after the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; Click calls this."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            group = ctx.find_root()
            if error.option_name in _options(group.command):
                raise click.UsageError(
                    f"{error.option_name} goes before the command: {group.info_name}"
                    f" {error.option_name} … {self.name}",
                    ctx,
                ) from None
            raise


class Commands(click.Group):
    """A group whose commands end in one line and an exit code, never in a traceback."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # Click's signature
        """List commands in the order in which they were added: a user meets them in this order."""
        return list(self.commands)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # Click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write each command's summary in full, where Click would cut it to one line."""
        rows = [
            (name, command.get_short_help_str(limit=1_000))
            for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the global options; Click calls this."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            option = error.option_name
            homes = [name for name, each in self.commands.items() if option in _options(each)]
            if homes:
                raise click.UsageError(
                    f"{option} goes after the command: {ctx.info_name}"
                    f" {' or '.join(homes)} {option} …",
                    ctx,
                ) from None
            raise

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the global options; `--help` and `--version` write here. Click calls this."""
        with streams.closed_pipe_named():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Click calls this."""
        with streams.closed_pipe_named():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run as a program: end with an exit code, and one line for each thing that is wrong."""
        streams.prepare()
        try:
            code = self._code_of(*args, **kwargs)
        finally:
            streams.finish()
        sys.exit(code)

    def _code_of(self, *args: Any, **kwargs: Any) -> int:
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            code = _explain(error)
            if code is None:
                raise
        return int(code or 0)


def _explain(error: BaseException) -> int | None:
    """Say what ended a command, and return its exit code; None to show the traceback."""
    code: int | None
    match error:
        case ConfigurationError():
            for fault in error.faults:
                streams.complain(fault)
            code = error.exit_code
        case ExporterError():
            streams.complain(str(error))
            code = error.exit_code
        case click.ClickException():
            streams.show(error)
            code = error.exit_code
        case click.Abort() | KeyboardInterrupt():
            streams.complain("interrupted")
            code = streams.INTERRUPTED
        case streams.ClosedPipeError():
            code = streams.CLOSED_PIPE
        case OSError() if streams.writing_failed(error):
            streams.complain(f"cannot write to standard output: {error.strerror or error}")
            code = Exit.DATABASE
        case _ if os.environ.get("KALSHI_EXPORTER_TRACEBACK"):
            code = None
        case _:
            streams.complain(
                f"unexpected {type(error).__name__}: {error}; please report it, with what"
                " KALSHI_EXPORTER_TRACEBACK=1 shows"
            )
            code = Exit.FAILURE
    return code


def _options(command: click.Command) -> set[str]:
    return {
        spelling
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }


def _leave_no_core() -> None:
    """Keep a crash from writing this process's memory, with keys and passwords, to a disk."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


class Context:
    """The global options; the configuration is read when a command asks for it."""

    def __init__(self, path: str, log_level: str | None, log_format: str | None) -> None:
        self._path = path
        self._log_level = log_level
        self._log_format = log_format

    def configuration(self) -> "Configuration":
        """Read the whole configuration, and log as it says.

        Raises:
            ConfigurationError: it has faults.
        """
        configuration = self.load()
        self.adopt(configuration)
        return configuration

    def history(self) -> "HistoryConfiguration":
        """Read the configuration of a command that sends nothing to the exchange, and log by it.

        The environment variables of keys and addresses need not be set: only the service has them.

        Raises:
            ConfigurationError: it has faults.
        """
        from exporter.config.load import load_history

        _leave_no_core()
        configuration = load_history(self._file())
        self.adopt(configuration)
        return configuration

    def load(self) -> "Configuration":
        """Read the whole configuration.

        Raises:
            ConfigurationError: it has faults.
        """
        from exporter.config.load import load

        _leave_no_core()
        return load(self._file())

    def adopt(self, configuration: "HistoryConfiguration") -> None:
        """Log as this configuration says."""
        from exporter.logs import redaction, setup

        for secret in configuration.secrets:
            redaction.protect(secret)
        setup.configure(
            self._log_level or configuration.log.level,
            self._log_format or configuration.log.format,
        )

    def _file(self) -> "Path":
        from pathlib import Path

        return Path(self._path)


class File(click.ParamType[str]):
    """The name of a file. Whether it can be used is for the command to say, in one line."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it; Click calls this."""
        if not value:
            self.fail("must name a file", param, ctx)
        return str(value)


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
    """An instant in UTC; a line on stderr says where UTC had to be assumed."""

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
            streams.warn(f"{value} is taken as UTC: {instant:%Y-%m-%dT%H:%M:%SZ}")
        return instant


FILE = File()
DURATION = Duration()
INSTANT = Instant()

account_option = click.option(
    "--account",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be given several times. Otherwise all that are configured.",
)


def chosen(configuration: "Configuration", names: tuple[str, ...]) -> "tuple[Account, ...]":
    """Return the accounts that were asked for, or all of them if none was named.

    Raises:
        click.BadParameter: a name is not configured.
    """
    if not names:
        return configuration.accounts
    known = {account.name: account for account in configuration.accounts}
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"no account is called {name!r}; configured: {', '.join(known)}",
                param_hint="--account",
            )
    return tuple(known[name] for name in dict.fromkeys(names))
