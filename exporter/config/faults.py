"""Faults of a configuration as lines: where, what was written, and what was probably meant."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.config.keys import ACCOUNT, SECTIONS
from exporter.config.secrecy import could_be_secret

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]")
_ASSIGNMENT = re.compile(r"\s*([\w.\"'-]+)\s*=")
_QUOTED = re.compile(r"'.*'|\".*\"|(?<=Cannot declare )\(.*\)")
_HUGE = 10**12


def hint(name: str, where: str, known: Mapping[str, str]) -> str:
    """Return what an unknown key probably meant: a key of this table, or one of another table.

    Args:
        name: the unknown key.
        where: the path of its table, "" for the document.
        known: the table's own keys with their meanings.
    """
    import difflib  # noqa: PLC0415  # only for a configuration that is wrong

    for near in difflib.get_close_matches(name.lower(), known, n=1):
        meaning = f" ({known[near]})" if known[near] else ""
        return f'did you mean "{near}"?{meaning}'
    homes: dict[str, list[str]] = {}
    for heading, keys in {**SECTIONS, "accounts": ACCOUNT}.items():
        for key in keys if heading != where else ():
            homes.setdefault(key.name, []).append(
                "[[accounts]]" if heading == "accounts" else f"[{heading}]"
            )
    for near in difflib.get_close_matches(name.lower(), homes, n=1):
        return f'did you mean "{near}" in {" or ".join(homes[near])}?'
    return f"known here are {', '.join(known)}"


def spelled(name: str) -> str:
    """Return a key as TOML spells it, on one line, unless it could be a secret."""
    if could_be_secret(name):
        return "(a key that is not shown, it could be a secret)"
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else repr(name)


def shown(value: object) -> str:
    """Return a value as the file has it, on one line; "" for a value that could be a secret."""
    if isinstance(value, str):
        return "" if could_be_secret(value) else repr(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        # Python refuses to spell out the largest integers.
        return str(value) if isinstance(value, float) or abs(value) < _HUGE else "a huge number"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    return "a date or time"


def without_names(message: str) -> str:
    """Return a message of tomllib's, without the key that it repeats if that could be a secret."""
    return _QUOTED.sub(
        lambda match: "(not shown)" if could_be_secret(match[0][1:-1]) else match[0], message
    )


def located(faults: Iterable[tuple[str, str]], path: Path, text: str) -> list[str]:
    """Return faults in the file's order, with line numbers where these can be found.

    tomllib forgets where it found a value, so this looks for headings and keys as people write
    them. A key written in another form, such as an inline table, gets its table's line, or none.

    Args:
        faults: pairs of a key's path, such as "poll.interval", and the rest of the line.
        path: of the file.
        text: what the file holds.
    """
    lines: dict[str, int] = {}
    tables = Counter[str]()
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            table = header[2].replace('"', "").replace("'", "")
            if header[1] == "[[":
                tables[table] += 1
                table = f"{table}[{tables[table] - 1}]"
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment[1].replace('"', "").replace("'", "")
            lines.setdefault(f"{table}.{key}" if table else key, number)
    found = [
        (lines.get(where) or lines.get(where.rpartition(".")[0]), where, reason)
        for where, reason in faults
    ]
    found.sort(key=lambda fault: fault[0] or 0)
    return [
        f"{path}:{line}: {where}{reason}" if line else f"{path}: {where}{reason}"
        for line, where, reason in found
    ]
