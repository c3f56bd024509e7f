# ruff: noqa: INP001  # a script beside its picture, not part of a package
"""Draw the flow of the data as docs/images/architecture.svg.

Run it after a change: `python docs/make_architecture_picture.py`. A test checks the picture.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "images" / "architecture.svg"

_WIDTH, _HEIGHT = 920, 422
_BOX = 52  # height

# Each box has a folder, its purpose, and its left edge, top edge and width.
_ROOMS = (
    ("config/", "TOML to frozen values", 20, 20, 200),
    ("wiring.py", "values to a Recorder", 250, 20, 200),
    ("run_once.py · daemon/", "when: cron, or a grid", 480, 20, 200),
    ("recording/", "poll, stream, drain", 250, 130, 430),
    ("kalshi/ · http/", "signed requests, one socket per key", 20, 240, 320),
    ("spool/", "waits while the database is away", 370, 240, 240),
    ("history/ · database/", "one transaction per poll or batch", 640, 240, 260),
    ("the exchange", "REST and WebSocket", 20, 350, 320),
    ("SQLite or Postgres", "tables and views", 640, 350, 260),
    ("reading/ · report/", "export, status, report", 370, 350, 240),
    ("hooks.py", "who is told what happened", 710, 80, 190),
    ("monitoring/ · logs/", "metrics, systemd, alarms", 710, 150, 190),
)

# Each arrow has x and y of its start, and x and y of its end.
_ARROWS = (
    (220, 46, 250, 46),
    (450, 46, 480, 46),
    (580, 72, 580, 130),
    (300, 182, 180, 240),
    (470, 182, 490, 240),
    (600, 182, 760, 240),
    (180, 292, 180, 350),
    (770, 292, 770, 350),
    (610, 266, 640, 266),
    (680, 146, 710, 112),
    (805, 132, 805, 150),
    (640, 376, 610, 376),
)


def picture() -> str:
    """Return the picture as SVG."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        ' aria-label="The way of the data through the folders of the source">'
    )
    yield (
        "<style>text{font:13px system-ui,sans-serif;fill:#1f2328}"
        ".what{font-size:12px;fill:#57606a}</style>"
    )
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    yield (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>'
    )
    for x1, y1, x2, y2 in _ARROWS:
        yield (
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#57606a" stroke-width="1.5"'
            ' marker-end="url(#tip)"/>'
        )
    for name, what, left, top, width in _ROOMS:
        outside = name in {"the exchange", "SQLite or Postgres"}
        fill = "#eef2f6" if outside else "#ddf4ff"
        yield (
            f'<rect x="{left}" y="{top}" width="{width}" height="{_BOX}" rx="6" fill="{fill}"'
            ' stroke="#8c959f"/>'
        )
        middle = left + width / 2
        yield (
            f'<text x="{middle:g}" y="{top + 22}" text-anchor="middle" font-weight="600">'
            f"{escape(name)}</text>"
        )
        yield (
            f'<text x="{middle:g}" y="{top + 40}" text-anchor="middle" class="what">'
            f"{escape(what)}</text>"
        )
    yield "</svg>"


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
