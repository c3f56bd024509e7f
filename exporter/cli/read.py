"""Commands that answer from the history and change nothing: status, export, report."""

import sys
from typing import TYPE_CHECKING, Any

import click

from exporter.cli import streams
from exporter.cli.support import DURATION, FILE, INSTANT, Command, Context, account_option
from exporter.errors import DatabaseError, Exit, SpoolError

if TYPE_CHECKING:
    from datetime import datetime

    from exporter.reading.queries import What


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option(
    "--max-age",
    type=DURATION,
    help="Exit with 1 if an account's last observation is older. Default: 2.5 intervals.",
)
@click.pass_obj
def status(context: Context, as_json: bool, max_age: float | None) -> Exit:
    """Show how recording goes: last poll, last success, groups, changes, gap, staleness.

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

    configuration = context.history()
    try:
        with closing(spool_of(configuration)) as spool:
            spooled = spool.pending()
    except SpoolError as error:
        # An analyst may read the database, but not the spool, which belongs to the exporter.
        forbidden = isinstance(error.__cause__, PermissionError)
        place = f"the spool {configuration.spool.directory} is for the exporter's user alone"
        streams.warn(f"{place if forbidden else error}: what waits there is not counted")
        spooled = {}
    try:
        statuses = read(
            configuration.database.url,
            [(account.name, account.poll.interval) for account in configuration.accounts],
            now=datetime.now(UTC),
            max_age=max_age,
            spooled=spooled,
            switched_off={each.name for each in configuration.accounts if not each.stream},
        )
    except DatabaseError as error:
        waiting = sum(spooled.values())
        raise type(error)(f"{error}; polls that wait for it in the spool: {waiting}") from error
    streams.answer(to_json(statuses) if as_json else render_table(statuses))
    return Exit.FAILURE if any(each.stale for each in statuses) else Exit.OK


@click.command(cls=Command)
@click.argument(
    "what",
    type=click.Choice(
        ["groups", "history", "changes", "polls", "gaps", "events", "triggers", "stream-gaps"]
    ),
)
@click.option("--as-of", type=INSTANT, help="Groups as they were at this instant.")
@click.option("--since", type=INSTANT, help="Only from this instant on.")
@click.option("--until", type=INSTANT, help="Only before this instant.")
@account_option
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
    type=FILE,
    help="A file, replaced as a whole at the end, or DIRECTORY/ for Parquet by account and day."
    " Default: -, standard output.",
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
    """Write a part of the history as a file.

    The groups at an instant, every state of theirs (history), their changes, the polls and the gaps
    between them; and of the exchange's stream the events, triggers and gaps.

    --since and --until take what happened in the span: changes by the poll that saw them, events
    and triggers by the exchange's time. Of states and gaps they take what lasted in it.

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
      kalshi-exporter export triggers --since 2026-03-01 --until 2026-03-02
    """
    import os.path
    from contextlib import ExitStack
    from datetime import UTC, datetime
    from pathlib import Path

    from exporter.reading.export import export as write

    if output == "-":
        output = None
    if output is None and file_format == "parquet" and sys.stdout.isatty():
        raise click.UsageError("parquet is binary, and a terminal shows text: name a file with -o")
    configuration = context.history()
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
                dataset=output is not None and (output.endswith("/") or os.path.isdir(output)),  # noqa: PTH112  # Path's raises where nobody may look
                intervals={each.name: each.poll.interval for each in configuration.accounts},
                now=datetime.now(UTC),
                progress=progress if output is not None and sys.stderr.isatty() else None,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    for notice in exported.notices:
        streams.warn(notice)


@click.command(cls=Command)
@click.option(
    "-o",
    "--output",
    type=FILE,
    default="report.html",
    show_default=True,
    help="The file, replaced as a whole at the end; - for standard output.",
)
@click.option("--since", type=INSTANT, help="Only from this instant on. Default: all.")
@click.option("--until", type=INSTANT, help="Only up to this instant. Default: now.")
@account_option
@click.pass_obj
def report(
    context: Context,
    output: str,
    since: "datetime | None",
    until: "datetime | None",
    names: tuple[str, ...],
) -> None:
    """Draw the history as one page of HTML that needs no network: for people to look at.

    It opens with whether everything is recording, and a table of accounts, the worst first. Each
    account has a view of its coverage, triggers, changes and single order groups over time.

    \b
    Example:
      kalshi-exporter report
      kalshi-exporter report --since 2026-03-01 --until 2026-04-01 -o march.html
    """
    from datetime import UTC, datetime
    from pathlib import Path

    from exporter.report.page import report as write

    configuration = context.history()
    try:
        done = write(
            configuration.database.url,
            None if output == "-" else Path(output),
            intervals={account.name: account.poll.interval for account in configuration.accounts},
            now=datetime.now(UTC),
            since=since,
            until=until,
            account_names=names,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # The page itself may be on standard output.
    tell = streams.warn if output == "-" else streams.answer
    tell(
        f"Wrote {output}: {done.since:%Y-%m-%dT%H:%M:%SZ} to {done.until:%Y-%m-%dT%H:%M:%SZ},"
        f" accounts: {done.accounts}, order groups: {done.groups}."
    )
    for name in done.unknown:
        streams.warn(f"{name}: nothing is recorded")
    if done.accounts_shown < done.accounts:
        streams.warn(
            f"{done.accounts - done.accounts_shown} accounts did not fit on the page; split the"
            " report with --account."
        )
    if done.shown < done.groups:
        streams.warn(
            f"{done.groups - done.shown} order groups to which least happened did not fit on"
            " the page; choose one --account or a shorter span to see them, or read any of them"
            " with `export history --group ID`."
        )
