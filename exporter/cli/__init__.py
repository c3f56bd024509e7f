"""The commands: each parses, puts together, calls one function, and gives its exit code.

Only Click is imported here: `--help` needs no more, not even pathlib, and cron starts the rest
every minute.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from exporter import __version__
from exporter.cli.support import Commands, Context, Duration, Instant
from exporter.errors import ConfigurationError, DatabaseError, Exit

if TYPE_CHECKING:
    from datetime import datetime

    from exporter.config.model import Account, Configuration
    from exporter.reading.queries import What


_DURATION = Duration()
_INSTANT = Instant()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(),
    envvar="KALSHI_EXPORTER_CONFIG",
    default="config.toml",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="How much is logged to stderr; else as configured.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Else as configured.")
@click.version_option(__version__, prog_name="kalshi-exporter")
@click.pass_context
def main(
    context: click.Context, config: str, log_level: str | None, log_format: str | None
) -> None:
    """Record what your Kalshi order groups are doing, and know it for any moment later.

    \b
    Try it without an account:   kalshi-exporter demo
    Set it up:                   kalshi-exporter init
                                 kalshi-exporter check
    From cron:                   kalshi-exporter --log-level ERROR run-once
    As a service:                kalshi-exporter daemon
    """
    context.obj = Context(config, log_level, log_format)


@main.command()
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How long; catching up may take a few more.",
)
@click.option(
    "--directory",
    type=click.Path(),
    help="Where its files are kept; else in a fresh temporary directory.",
)
def demo(seconds: int, directory: str | None) -> None:
    """Show the exporter at work on a pretend exchange; no account is needed.

    An exchange on this machine verifies every signature, while order groups come, change and go on
    it, and faults happen. The real daemon polls it into SQLite. At the end stands what it recorded,
    where that is, and what to ask it. Needs no configuration; --config and --log-... do nothing.

    \b
    Example:
      kalshi-exporter demo
      kalshi-exporter demo --seconds 60 --directory try-it
    """
    from pathlib import Path

    from exporter.demo.run import run

    run(seconds, None if directory is None else Path(directory))


@main.command()
@click.argument("path", type=click.Path(), default="config.toml")
def init(path: str) -> None:
    """Write a commented configuration to PATH; an existing file is never touched.

    \b
    Example:
      kalshi-exporter init
      kalshi-exporter init /etc/kalshi-exporter/config.toml
    """
    from exporter.resources import shipped

    text = shipped("config.example.toml").read_bytes()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already, and is left as it is") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    click.echo(f"Wrote {path}. Fill in the account, then run: kalshi-exporter check")


@main.command()
@click.option("--offline", is_flag=True, help="Ask the exchange nothing.")
@click.pass_obj
def check(context: Context, offline: bool) -> Exit:
    """Look at configuration, keys, database, schema and spool, then ask the exchange once.

    Changes nothing. Each line is a finding, ok, in doubt or wrong, and says what to do. If the
    exchange refuses an account, the line says whether the key, its scope, the environment or this
    machine's clock looks wrong.

    \b
    Example:
      kalshi-exporter check
      kalshi-exporter check --offline
    """
    from exporter.doctor.check import check as look
    from exporter.logs import setup

    configuration = context.configuration()
    # Each finding is a line of the answer; the log would say it once more.
    setup.configure("ERROR", "text")
    worst = Exit.OK
    for finding in look(configuration, offline=offline):
        if finding.exit_code != Exit.OK:
            mark = click.style("WRONG", fg="red")
        elif finding.doubtful:
            mark = click.style("doubt", fg="yellow")
        else:
            mark = click.style("ok   ", fg="green")
        click.echo(f"{mark}  {finding.subject}: {finding.text}")
        worst = max(worst, finding.exit_code)
    return worst


_account_option = click.option(
    "--account",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be given several times. Else all that are configured.",
)


@main.command("run-once")
@_account_option
@click.pass_obj
def run_once(context: Context, names: tuple[str, ...]) -> Exit:
    """Poll each account once, record it, and exit: for cron.

    The exit code is the highest of all accounts: 0 recorded, 65 invalid answer, 69 exchange
    unreachable or failing, 74 database failed, 75 try again later, 77 credentials refused,
    78 configuration.

    \b
    Example:
      kalshi-exporter run-once --account main
    """
    from exporter.run_once import run

    configuration = context.configuration()
    return run(configuration, _chosen(configuration, names))


@main.command()
@click.pass_obj
def daemon(context: Context) -> Exit:
    """Poll every account on its interval until SIGTERM or SIGINT: for systemd.

    SIGHUP reads the configuration and the keys again, and changes nothing if anything is wrong with
    them. A second SIGTERM ends it at once.

    \b
    Example:
      kalshi-exporter --config /etc/kalshi-exporter/config.toml daemon
    """
    from exporter.daemon.reload import run

    return run(context.load, context.adopt)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option(
    "--max-age",
    type=_DURATION,
    help="Exit with 1 if an account's last observation is older; default: 2.5 intervals.",
)
@click.pass_obj
def status(context: Context, as_json: bool, max_age: float | None) -> Exit:
    """Tell how recording goes: last poll, last success, groups, changes, gap, staleness.

    Reads the database and the spool only. Exits with 1 if an account is stale.

    \b
    Example:
      kalshi-exporter status
      kalshi-exporter status --json --max-age 5m
    """
    from contextlib import closing
    from datetime import UTC, datetime

    from exporter.reading.status import status as read
    from exporter.reading.status_text import render_table, to_json
    from exporter.wiring import spool_of

    configuration = context.configuration()
    with closing(spool_of(configuration)) as spool:
        spooled = spool.pending()
    try:
        statuses = read(
            configuration.database.url,
            [(account.name, account.poll.interval) for account in configuration.accounts],
            now=datetime.now(UTC),
            max_age=max_age,
            spooled=spooled,
        )
    except DatabaseError as error:
        waiting = sum(spooled.values())
        raise DatabaseError(f"{error}; polls that wait for it in the spool: {waiting}") from error
    click.echo(to_json(statuses) if as_json else render_table(statuses))
    return Exit.FAILURE if any(each.stale for each in statuses) else Exit.OK


@main.command()
@click.argument("what", type=click.Choice(["groups", "history", "changes", "polls", "gaps"]))
@click.option("--as-of", type=_INSTANT, help="Groups as they stood at this instant.")
@click.option("--since", type=_INSTANT, help="Only from this instant on.")
@click.option("--until", type=_INSTANT, help="Only before this instant.")
@_account_option
@click.option(
    "--group",
    "group_ids",
    multiple=True,
    metavar="ID",
    help="Only this order group; may be given several times.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
)
@click.option(
    "-o",
    "--output",
    help="A file, replaced as a whole at the end, or DIRECTORY/ for Parquet by account and day;"
    " else stdout.",
)
@click.pass_obj
def export(  # noqa: PLR0917  # Click calls it by keywords
    context: Context,
    what: "What",
    as_of: "datetime | None",
    since: "datetime | None",
    until: "datetime | None",
    names: tuple[str, ...],
    group_ids: tuple[str, ...],
    file_format: str,
    output: str | None,
) -> None:
    """Write the history as a file: groups, every state, changes, polls or gaps.

    Instants are like 2026-03-01T12:30:00Z, or a date for its midnight; without an offset: UTC.
    A directory takes Parquet files by account and day, of one kind; with --since only the days that
    may have changed since are written again.

    \b
    Example:
      kalshi-exporter export groups
      kalshi-exporter export groups --as-of 2026-03-01T12:30:00Z
      kalshi-exporter export history --account main --group 0d5f2a7c-41c3-4f5e-9a3b-2f1f6f1c7a11
      kalshi-exporter export changes --since 2026-03-01 --format jsonl -o changes.jsonl
      kalshi-exporter export changes --since 2026-03-01 --format parquet -o changes/
    """
    from contextlib import ExitStack
    from datetime import UTC, datetime
    from pathlib import Path

    from exporter.reading.export import export as write

    configuration = context.configuration()
    bar: Any = None  # Click does not name its type

    def progress(rows: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = stack.enter_context(
                click.progressbar(
                    length=total, label=what, show_percent=True, show_pos=True, file=sys.stderr
                )
            )
        bar.update(rows - bar.pos)

    with ExitStack() as stack:
        try:
            exported = write(
                configuration.database.url,
                what,
                as_of=as_of,
                since=since,
                until=until,
                account_names=names,
                group_ids=group_ids,
                file_format=file_format,
                output=None if output is None else Path(output),
                dataset=output is not None and (output.endswith("/") or Path(output).is_dir()),
                intervals={each.name: each.poll.interval for each in configuration.accounts},
                now=datetime.now(UTC),
                progress=progress if output is not None and sys.stderr.isatty() else None,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    for notice in exported.notices:
        click.echo(notice, err=True)


@main.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    default="report.html",
    show_default=True,
    help="The file, replaced as a whole at the end.",
)
@click.option("--since", type=_INSTANT, help="Only from this instant on; else all.")
@click.option("--until", type=_INSTANT, help="Only up to this instant; else up to now.")
@_account_option
@click.pass_obj
def report(
    context: Context,
    output: str,
    since: "datetime | None",
    until: "datetime | None",
    names: tuple[str, ...],
) -> None:
    """Draw the history as one page of HTML that needs no network: for people to look at.

    It opens with what matters in words, and shows for each account what was observed and why the
    rest was not, its order groups over time, failed polls, latency and clock.

    \b
    Example:
      kalshi-exporter report
      kalshi-exporter report --since 2026-03-01 --until 2026-04-01 -o march.html
    """
    from datetime import UTC, datetime
    from pathlib import Path

    from exporter.report.page import report as write

    configuration = context.configuration()
    try:
        done = write(
            configuration.database.url,
            Path(output),
            intervals={account.name: account.poll.interval for account in configuration.accounts},
            now=datetime.now(UTC),
            since=since,
            until=until,
            account_names=names,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(
        f"Wrote {output}: {done.since:%Y-%m-%dT%H:%M:%SZ} to {done.until:%Y-%m-%dT%H:%M:%SZ},"
        f" accounts: {done.accounts}, order groups: {done.groups}."
    )
    if done.accounts_shown < done.accounts:
        click.echo(
            f"{done.accounts - done.accounts_shown} accounts found no room on it: make pages of"
            " some each, with --account.",
            err=True,
        )
    if done.shown < done.groups:
        click.echo(
            f"{done.groups - done.shown} order groups with the fewest changes found no room on it:"
            " ask for one --account or a shorter time to see them; `export history --group ID` has"
            " any.",
            err=True,
        )


@main.command()
@click.pass_obj
def migrate(context: Context) -> None:
    """Bring the database's schema to this version; a SQLite file is copied before.

    \b
    Example:
      kalshi-exporter migrate
    """
    from contextlib import closing

    from exporter.history import migrate as migrations
    from exporter.history.schema import REVISION
    from exporter.wiring import database_of

    with closing(database_of(context.configuration())) as database:
        before, backup = migrations.migrate(database)
    if before == REVISION:
        click.echo(f"The schema is at revision {REVISION} already.")
    else:
        copy = f"; the database as it was is in {backup}" if backup else ""
        click.echo(f"The schema went from {before or 'nothing'} to {REVISION}{copy}.")


@main.command()
@click.option("--older-than", type=_DURATION, required=True, help="Such as 90d, 12w or 36h.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def prune(context: Context, older_than: float, dry_run: bool) -> None:
    """Drop old rows of the table polls; never a snapshot, never coverage.

    What the other tables and the views say stays as it is. May run while others poll.

    \b
    Example:
      kalshi-exporter prune --older-than 90d --dry-run
      kalshi-exporter prune --older-than 90d
    """
    from contextlib import closing
    from datetime import UTC, datetime, timedelta

    from exporter.history.migrate import ensure_current
    from exporter.history.prune import prune as drop
    from exporter.wiring import database_of

    configuration = context.configuration()
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    with closing(database_of(configuration)) as database:
        ensure_current(database, auto_migrate=False)
        dropped = drop(database, before=before, dry_run=dry_run)
    verb = "would be dropped" if dry_run else "dropped"
    click.echo(f"{dropped} polls from before {before:%Y-%m-%dT%H:%M:%SZ} {verb}.")


def _chosen(configuration: "Configuration", names: tuple[str, ...]) -> "tuple[Account, ...]":
    """The accounts that were asked for; all of them if none was named."""
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
