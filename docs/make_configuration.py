# ruff: noqa: INP001  # a script beside its page, not part of a package
"""Write a page of all configuration keys: texts from the example file, types from the code.

Run it after a change of either: `python docs/make_configuration.py`. A test checks the page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporter.config.keys import ACCOUNT, SECTIONS, Key
from exporter.resources import shipped

PAGE = Path(__file__).parent / "configuration.md"

_INTRODUCTION = """\
# Configuration

Every key of the configuration file. `kalshi-exporter init` writes the file with the same texts
in it, and `kalshi-exporter check` says whether it works. Only an account's keys must be filled
in; everything else has a default.

- The file is [TOML](https://toml.io): `--config PATH`, else `$KALSHI_EXPORTER_CONFIG`, else
  `config.toml` in the current directory.
- Relative paths start from the directory of the file.
- `${NAME}` inside any text is taken from the environment, and an unset name is an error. A
  literal `${` is written `$${`.
- A key that is unknown, of the wrong type or impossible is refused. All faults come at once,
  each with its line.

<!-- Made by docs/make_configuration.py from config.example.toml and exporter/config/keys.py. -->
"""

_HEADER = re.compile(r"(?:# )?(\[\[?[a-z]+\]\]?)$")
_ASSIGNMENT = re.compile(r"(?:# )?([a-z_]+) = .+$")


@dataclass
class _Entry:
    """A section or a key of the example: its heading, its comment, and its line."""

    heading: str
    comment: list[str]
    line: str
    is_section: bool
    section: str = field(default="")


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    keys = {f"[{name}]": {key.name: key for key in each} for name, each in SECTIONS.items()}
    keys["[[accounts]]"] = {key.name: key for key in ACCOUNT}
    for entry in _entries(shipped("config.example.toml").read_text("utf-8")):
        if entry.is_section:
            yield f"## {entry.heading}\n"
            yield from _paragraphs(entry.comment)
            continue
        key = keys[entry.section].get(entry.heading)
        yield f"### {entry.heading}\n"
        yield from _paragraphs(entry.comment)
        yield f"```toml\n{entry.line}\n```\n"
        if key is not None:
            yield f"{_form(key)}\n"


def _form(key: Key) -> str:
    """Return a sentence on what a key may hold, and its default."""
    if key.required:
        default = "Required."
    elif key.default is None:
        default = "No default."
    elif isinstance(key.default, str):
        default = f'Default: `"{key.default}"`.'
    else:
        default = f"Default: `{str(key.default).lower()}`."
    return f"Must be {key.kind.expected}. {default}"


def _entries(text: str) -> Iterator[_Entry]:
    comment: list[str] = []
    section = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            section = header[1]
            yield _Entry(section, comment, line, is_section=True, section=section)
            comment = []
        elif section and (assignment := _ASSIGNMENT.match(line)):
            yield _Entry(
                assignment[1], comment, line.removeprefix("# "), is_section=False, section=section
            )
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").removeprefix(" "))
        else:
            # A comment between blank lines is about the whole file.
            comment = []


def _paragraphs(comment: list[str]) -> Iterator[str]:
    if not comment:
        return
    # Indented lines are examples. `_form` states the default, so the comment's is left out.
    text = "\n".join(f"    {line.strip()}" if line.startswith("  ") else line for line in comment)
    text = re.sub(r"(?<=[.!?\n]) ?(?:Default: [^\n]*|Required\.)$", "", text).strip()
    text = re.sub(r"(?m)^(    .*(?:\n    .*)*)$", r"\n\1\n", text)
    if text:
        yield f"{text}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
