# ruff: noqa: INP001  # a script beside its page, not part of a package
"""Write the help of all commands as a page.

Run it after a change of a command: `python docs/make_commands.py`. A test checks the page.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from exporter.cli import main
from exporter.cli.streams import CLOSED_PIPE, INTERRUPTED
from exporter.errors import Exit

PAGE = Path(__file__).parent / "commands.md"

_EXIT_CODES = {
    Exit.OK: "done",
    Exit.FAILURE: "unexpected failure, or `status` found a stale account",
    Exit.USAGE: "wrong usage",
    Exit.INVALID_RESPONSE: "the response was not valid; nothing was concluded from it",
    Exit.UNAVAILABLE: "the exchange was unreachable, too slow, rate-limited, failing, or refused"
    " the request",
    Exit.DATABASE: "the database failed, or database and disk failed and the observation is lost",
    Exit.TEMPORARY: "try again later: another exporter is polling the account, or the observation"
    " waits in the spool",
    Exit.UNAUTHORIZED: "the exchange refused the credentials",
    Exit.CONFIGURATION: "configuration, key, schema or database: a person must fix it;"
    " observations wait in the spool where they can",
}


def page() -> str:
    """Return the text of `docs/commands.md`."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "What each command does, its options, and the exit codes; `--help` says the same. Logs go"
    yield "to stderr, and only results to stdout."
    yield ""
    yield "<!-- Made by docs/make_commands.py from exporter/cli/__init__.py. -->"
    yield ""
    yield "These options stand before the command, as in `kalshi-exporter --config my.toml status`:"
    yield ""
    yield from _options(main)
    for name, command in main.commands.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield from _command(command)
    yield ""
    yield "## Exit codes"
    yield ""
    yield "With several accounts, each is polled whatever happens to the others; the highest code"
    yield "wins."
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    for code in Exit:
        yield f"| {code.value} | {_EXIT_CODES[code]} |"
    yield f"| {INTERRUPTED} | interrupted by Ctrl-C (128 + SIGINT) |"
    yield f"| {CLOSED_PIPE} | the reader of the output went away, as `head` does (128 + SIGPIPE) |"


def _command(command: click.Command) -> Iterator[str]:
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    pieces = [f"kalshi-exporter {command.name}", "[OPTIONS]", *map(_argument, arguments)]
    yield "```"
    yield " ".join(pieces)
    yield "```"
    yield ""
    yield text.strip()
    yield ""
    if len(command.params) > len(arguments):
        yield from _options(command)
        yield ""
    yield "```sh"
    yield inspect.cleandoc(example)
    yield "```"


def _options(command: click.Command) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "version":
            value = "" if option.is_flag else f" {option.metavar or _value(option)}"
            yield f"| `{', '.join(option.opts)}{value}` | {' '.join(_meaning(option))} |"


def _meaning(option: click.Option) -> Iterator[str]:
    yield (option.help or "").strip()
    if option.show_envvar and option.envvar:
        yield f"Else `${option.envvar}`."
    if option.show_default:
        yield f"Default: `{option.default}`."
    if option.required:
        yield "Required."


def _argument(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice):
        return "|".join(argument.type.choices)
    shown = (argument.name or "").upper()
    return shown if argument.required else f"[{shown}]"


def _value(parameter: click.Parameter) -> str:
    """Return the placeholder of a value; Click's own spelling varies between its versions."""
    if isinstance(parameter.type, click.Choice):
        return "/".join(parameter.type.choices)  # a | would end a table's cell
    return parameter.type.name.partition(" ")[0].upper()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
