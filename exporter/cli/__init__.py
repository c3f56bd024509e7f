"""The commands: each parses its arguments, calls one function, and returns its exit code.

`setup` has what comes before the first poll, `record` what writes the history, `read` what answers
from it. Only Click is imported here: `--help` needs no more, and cron pays for every import each
minute.
"""

import click

from exporter import __version__
from exporter.cli import deployment, read, record, setup
from exporter.cli.support import FILE, Commands, Context


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=FILE,
    envvar="KALSHI_EXPORTER_CONFIG",
    default="config.toml",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="How much is logged to stderr. Default: as configured.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Default: as configured.")
@click.version_option(__version__, prog_name="kalshi-exporter")
@click.pass_context
def main(
    context: click.Context, config: str, log_level: str | None, log_format: str | None
) -> None:
    """Record the order groups of Kalshi accounts, and answer what they were at any moment.

    \b
    Try it without an account:   kalshi-exporter demo
    Set it up:                   kalshi-exporter init
                                 kalshi-exporter check
    From cron:                   kalshi-exporter --log-level ERROR run-once
    As a service:                kalshi-exporter daemon
    """
    context.obj = Context(config, log_level, log_format)


# The commands are in the order in which a user meets them.
for _command in (
    record.demo,
    setup.init,
    setup.check,
    record.run_once,
    record.daemon,
    read.status,
    read.export,
    read.report,
    setup.migrate,
    record.prune,
    deployment.deploy,
):
    main.add_command(_command)

__all__ = ["main"]
