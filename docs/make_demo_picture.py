# ruff: noqa: INP001  # a script beside its picture, not part of a package
"""Run the real demo in a pseudo-terminal, and draw its output as docs/demo.svg.

Run it where the package is installed, after the demo's output has changed.
"""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

_PICTURE = Path(__file__).with_name("demo.svg")
_COLUMNS = 80
_CHARACTER = 8.4  # width in pixels of a monospaced character at _SIZE
_SIZE = 14
_LINE = 19
_MARGIN = 18

_COLOR = re.compile("\x1b\\[([0-9;]*)m")
_CLASSES = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow", "36": "cyan"}

_STYLE = f"""
text {{ font: {_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
       monospace; fill: #d7dde4; white-space: pre }}
rect {{ fill: #12171d; stroke: #2b333c }}
.bold {{ font-weight: bold }} .dim {{ fill: #828d99 }} .prompt {{ fill: #fff; font-weight: bold }}
.red {{ fill: #ff7b72 }} .green {{ fill: #6fcf85 }} .yellow {{ fill: #e3b341 }}
.cyan {{ fill: #67c7e0 }}
@media (prefers-color-scheme: light) {{
  text {{ fill: #1f2328 }} rect {{ fill: #fbfcfd; stroke: #d0d7de }}
  .dim {{ fill: #66707b }} .prompt {{ fill: #000 }}
  .red {{ fill: #c2202c }} .green {{ fill: #1a7f37 }} .yellow {{ fill: #8a6100 }}
  .cyan {{ fill: #0a6d8c }}
}}
"""


def main() -> None:
    """Run the demo and write the picture."""
    lines = _story([_last_state(line) for line in _output().split("\n")])
    width = round(_COLUMNS * _CHARACTER + 2 * _MARGIN)
    height = (len(lines) + 1) * _LINE + 2 * _MARGIN
    texts = [
        f'<text x="{_MARGIN}" y="{_MARGIN + (number + 1) * _LINE}">{content}</text>'
        for number, content in enumerate(
            ['<tspan class="prompt">$ kalshi-exporter demo</tspan>', *map(_marked_up, lines)]
        )
        if content
    ]
    _PICTURE.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img"'
        ' aria-label="Terminal output of kalshi-exporter demo">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n",
        encoding="utf-8",
    )


def _output() -> str:
    """Return the demo's output on a terminal, with colors."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "demo"],
        stdout=theirs,
        env=environment | {"COLUMNS": str(_COLUMNS)},
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux raises this once the other end is closed
            break
        if not data:
            break
        printed += data
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit(f"the demo ended with {process.returncode}")
    return printed.decode()


def _last_state(line: str) -> str:
    """Return what a line finally shows: the part after its last carriage return."""
    return line.rstrip("\r").rpartition("\r")[2]


def _story(lines: list[str]) -> list[str]:
    """Return the most telling part of the output: a fault with its context, and the result."""
    plain = [_COLOR.sub("", line) for line in lines]
    blank = plain.index("")
    failed = next(number for number, line in enumerate(plain) if " failed (503" in line)
    changes = next(number for number, line in enumerate(plain) if "order_group_changes" in line)
    triggers = next(number for number, line in enumerate(plain) if "order_group_triggers" in line)
    return [
        *lines[: blank + 3],
        _dim("          ..."),
        *lines[failed - 4 : failed + 6],
        _dim("          ..."),
        "",
        *lines[changes : plain.index("", changes)],
        "",
        *lines[triggers : plain.index("", triggers)],
    ]


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def _marked_up(line: str) -> str:
    """Return a line as SVG, with its colors."""
    return "".join(
        f'<tspan class="{" ".join(classes)}">{escape(text)}</tspan>' if classes else escape(text)
        for classes, text in _spans(line.rstrip())
    )


def _spans(line: str) -> Iterator[tuple[list[str], str]]:
    """Yield the pieces of a line, each with its CSS classes."""
    parts = _COLOR.split(line)
    classes: list[str] = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            if part:
                yield classes, part
        else:
            codes = part.split(";")
            classes = [] if "0" in codes else [*classes, *(_CLASSES[code] for code in codes)]


if __name__ == "__main__":
    main()
