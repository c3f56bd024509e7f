"""Make the README's links absolute and add the project's URLs, if the address is known.

A release is built with the repository's address in REPOSITORY_URL. Any other build leaves the links
as they are, because a guessed address could belong to somebody else.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


class ProjectMetadata(MetadataHookInterface):
    """A hook that fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both fields; hatchling calls this.

        Raises:
            SystemExit: this Python is too old. pip would notice only after trying every release of
                every dependency of an extra, which takes many minutes.
        """
        if sys.version_info < (3, 11):  # noqa: UP036  # this runs before pip checks the version
            raise SystemExit(f"kalshi-exporter needs Python 3.11 or newer, not {sys.version}")
        text = Path(self.root, "README.md").read_text("utf-8")
        url = os.environ.get("REPOSITORY_URL", "").rstrip("/")
        if url:
            text = absolute(text, url)
            metadata["urls"] = {
                "Source": url,
                "Documentation": f"{url}/blob/HEAD/docs/index.md",
                "Changelog": f"{url}/blob/HEAD/CHANGELOG.md",
                "Issues": f"{url}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, url: str) -> str:
    """Point relative links to the repository on GitHub.

    Args:
        text: Markdown.
        url: the repository's URL.
    """

    def point(match: re.Match[str]) -> str:
        kind = "raw" if match[1].endswith((".png", ".svg")) else "blob"
        return f"]({url}/{kind}/HEAD/{match[1]})"

    return _LINK.sub(point, text)
