"""Put a page together: the template, one style sheet, the script, and the data as JSON.

The page's content security policy allows exactly these, by their hashes, and no connection.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.report.embedding import as_json

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = (
    "document.js",
    "time.js",
    "picture.js",
    "overview.js",
    "account.js",
    "timelines.js",
    "figures.js",
    "page.js",
)


def page(data: Mapping[str, Any]) -> bytes:
    """Return the page as HTML in UTF-8.

    Args:
        data: what the script shows, as JSON can say it.
    """
    style = _static("page.css")
    script = "\n".join(_static(name) for name in _SCRIPTS)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",  # the empty icon, so that the browser asks for none
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    text = _static("page.html")
    for place, content in (
        ("{{policy}}", policy),
        ("{{style}}", style),
        ("{{script}}", script),
        ("{{data}}", as_json(data)),  # last: nothing is replaced inside it
    ):
        before, after = text.split(place)
        text = f"{before}{content}{after}"
    return text.encode()


def _static(name: str) -> str:
    return (_STATIC / name).read_text("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
