"""Commands that write the history, or drop from it: demo, run-once, daemon, prune."""

import click

from exporter.cli import streams
from exporter.cli.support import DURATION, FILE, Command, Context, account_option, chosen
from exporter.errors import Exit


@click.command(cls=Command)
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How long it runs; catching up may take a few seconds more.",
)
@click.option(
    "--directory",
    type=FILE,
    help="Where its files are kept; a later demo continues them. Default: a temporary directory.",
)
def demo(seconds: int, directory: str | None) -> None:
    """Show the exporter at work on a local exchange; no account is needed.

    An exchange on this machine verifies every signature, while order groups appear, change and
    disappear on it, and faults happen. The real daemon polls it into SQLite and listens to its
    events. The end shows what it recorded, which triggers polling alone would have missed, where
    the database is, and what to ask it. It needs no configuration, and ignores --config and
    --log-....

    \b
    Example:
      kalshi-exporter demo
      kalshi-exporter demo --seconds 60 --directory try-it
    """
    from pathlib import Path

    from exporter.demo.run import run

    run(seconds, None if directory is None else Path(directory))


@click.command("run-once", cls=Command)
@account_option
@click.pass_obj
def run_once(context: Context, names: tuple[str, ...]) -> Exit:
    """Poll each account once, record it, and exit: for cron.

    The exit code is the highest of all accounts: 0 recorded, 65 invalid response, 69 exchange
    unreachable or failing, 74 database failed, 75 try again later, 77 credentials refused,
    78 configuration.

    \b
    Example:
      kalshi-exporter run-once --account main
    """
    from exporter.run_once import run

    configuration = context.configuration()
    return run(configuration, chosen(configuration, names))


@click.command(cls=Command)
@click.pass_obj
def daemon(context: Context) -> Exit:
    """Poll every account on its interval and listen to its events, until SIGTERM or SIGINT.

    For systemd. An event makes the account's next poll due at once. SIGHUP reads the configuration
    and the keys again, and changes nothing if anything is wrong with them. A second SIGTERM ends it
    at once.

    \b
    Example:
      kalshi-exporter --config /etc/kalshi-exporter/config.toml daemon
    """
    from exporter.daemon.reload import run

    return run(context.load, context.adopt)


@click.command(cls=Command)
@click.option("--older-than", type=DURATION, required=True, help="Such as 90d, 12w or 36h.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def prune(context: Context, older_than: float, dry_run: bool) -> None:
    """Drop old rows of the table polls; never a snapshot, coverage or an event.

    What the other tables and the views say stays as it is. It may run while others poll.

    \b
    Example:
      kalshi-exporter prune --older-than 90d --dry-run
      kalshi-exporter prune --older-than 90d
    """
    from contextlib import closing
    from datetime import UTC, datetime, timedelta

    from exporter.history.migrate import require_current
    from exporter.history.prune import prune as drop
    from exporter.wiring import database_of

    configuration = context.history()
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    with closing(database_of(configuration)) as database:
        require_current(database)
        dropped = drop(database, before=before, dry_run=dry_run)
    verb = "would be dropped" if dry_run else "dropped"
    streams.answer(f"{dropped} polls from before {before:%Y-%m-%dT%H:%M:%SZ} {verb}.")
