"""Commands that come before the first poll: a configuration, a check of it, and the schema."""

import os

import click

from exporter.cli import streams
from exporter.cli.support import FILE, Command, Context
from exporter.errors import ConfigurationError, Exit, cannot_write


@click.command(cls=Command)
@click.argument("path", type=FILE, default="config.toml")
def init(path: str) -> None:
    """Write a commented configuration to PATH; an existing file is never changed.

    PATH is config.toml if it is not given; - stands for standard output.

    \b
    Example:
      kalshi-exporter init
      kalshi-exporter init /etc/kalshi-exporter/config.toml
    """
    from exporter.resources import shipped

    text = shipped("config.example.toml").read_bytes()
    if path == "-":
        click.echo(text, nl=False)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already, and is left as it is") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    except OSError as error:
        os.unlink(path)  # noqa: PTH108  # `--help` needs no pathlib
        raise cannot_write(path, error) from error
    streams.answer(f"Wrote {path}. Fill in the account, then run: kalshi-exporter check")


@click.command(cls=Command)
@click.option("--offline", is_flag=True, help="Send nothing to the exchange.")
@click.pass_obj
def check(context: Context, offline: bool) -> Exit:
    """Check configuration, keys, database, schema and spool; ask and subscribe once.

    Changes nothing. Each line is a finding, marked ok, warn or FAIL, and says what to do. It sends
    one request for each account, and subscribes to the events of each key once. If the exchange
    refuses an account, the line says whether the key, its scope, the environment or this machine's
    clock looks wrong.

    \b
    Example:
      kalshi-exporter check
      kalshi-exporter check --offline
    """
    from exporter.doctor.check import check as look
    from exporter.logs import setup

    configuration = context.configuration()
    # Each finding is a line of the answer; the log would repeat it.
    setup.configure("ERROR", "text")
    worst = Exit.OK
    for finding in look(configuration, offline=offline):
        if finding.exit_code != Exit.OK:
            mark = click.style("FAIL", fg="red")
        elif finding.doubtful:
            mark = click.style("warn", fg="yellow")
        else:
            mark = click.style("ok  ", fg="green")
        streams.answer(f"{mark}  {finding.subject}: {finding.text}")
        worst = max(worst, finding.exit_code)
    return worst


@click.command(cls=Command)
@click.pass_obj
def migrate(context: Context) -> None:
    """Bring the database's schema to this version; a SQLite file is copied first.

    \b
    Example:
      kalshi-exporter migrate
    """
    from contextlib import closing

    from exporter.history import migrate as migrations
    from exporter.history.schema import REVISION
    from exporter.wiring import database_of

    with closing(database_of(context.history())) as database:
        before, backup = migrations.migrate(database)
    if before == REVISION:
        streams.answer(f"The schema is at revision {REVISION} already.")
    else:
        copy = f"; the database as it was is in {backup}" if backup else ""
        streams.answer(f"The schema went from {before or 'nothing'} to {REVISION}{copy}.")
