# ruff: noqa: INP001  # MkDocs loads it by its path
"""Add to MkDocs' site the files outside of docs/ that the pages link to.

On GitHub, `../deploy/…` is the file in the repository. On the site, it is a copy below
`repository/`.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent
_PLACE = "repository"

_LINK = re.compile(r"\]\(((?:\.\./)+[^)#]+)")
# A fence may also name a block for the tests, but the site understands only the language.
_FENCE = re.compile(r"^( *```\w+) .*$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the changelog, and the files outside of docs/ that the pages link to."""
    wanted = {"CHANGELOG.md"}
    for page in files.documentation_pages():
        found = _LINK.findall(page.content_string)
        wanted.update(filter(None, (_outside(page.src_uri, link) for link in found)))
    for path in sorted(wanted):
        files.append(File.generated(config, f"{_PLACE}/{path}", abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with its links to those files pointing to the copies."""
    place = posixpath.dirname(page.file.src_uri)
    if place == _PLACE:  # the changelog, whose links start from the repository's root
        return markdown.replace("](docs/", "](../")

    def point(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[1])
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(f'{_PLACE}/{path}', place or '.')}"

    return _FENCE.sub(r"\1", _LINK.sub(point, markdown))


def _outside(source: str, link: str) -> str | None:
    """Return the path in the repository that a page links to, if it is not below docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), link))
    return None if path.startswith(("docs/", "..")) else path
