"""The pages have no broken links, on GitHub or in the site, and generated pages are up to date."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from benchmarks.report import as_markdown
from benchmarks.results import from_json
from exporter.cli import main
from exporter.config.keys import ACCOUNT, SECTIONS
from tests.support.browser import CHROME, Browser

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_work_on_github(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text("utf-8"))):
        url = urlsplit(link)
        if url.scheme:
            assert url.scheme == "https", link
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not url.fragment or url.fragment in anchors(target), link


_NAMED = re.compile(r"`((?:tests|soak|benchmarks|deploy|exporter)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_it_names_exist(page: Path) -> None:
    for name in _NAMED.findall(page.read_text("utf-8")):
        assert (ROOT / name).exists(), name


def generator(name: str) -> ModuleType:
    """Load one of the scripts in docs/ that generate pages or pictures."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    made = importlib.util.module_from_spec(specification)
    sys.modules[name] = made  # dataclasses look up their module
    specification.loader.exec_module(made)
    return made


def test_the_page_of_commands_is_up_to_date() -> None:
    made = generator("make_commands")
    page = made.page()
    for name, command in main.commands.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            assert max(parameter.opts, key=len).lower() in section.lower() or (
                parameter.name == "what" and "groups|history" in section
            )
    assert made.PAGE.read_text("utf-8") == page, "run: python docs/make_commands.py"


def test_the_page_of_the_configuration_is_up_to_date_and_has_every_key() -> None:
    made = generator("make_configuration")
    page = made.page()
    headings = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    keys = [key.name for keys in (*SECTIONS.values(), ACCOUNT) for key in keys]
    assert sorted(set(headings)) == sorted(set(keys))
    assert made.PAGE.read_text("utf-8") == page, "run: python docs/make_configuration.py"


def test_the_picture_of_the_architecture_is_up_to_date_and_names_existing_files() -> None:
    made = generator("make_architecture_picture")
    picture = made.picture()
    for name in re.findall(r">([a-z_]+(?:/|\.py))(?: · ([a-z_]+/))?<", picture):
        for each in filter(None, name):
            assert (ROOT / "exporter" / each).exists(), each
    assert made.PICTURE.read_text("utf-8") == picture, (
        "run: python docs/make_architecture_picture.py"
    )


class _Fetched(HTMLParser):
    """Collects the URLs that a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and (source := values.get("src")):
            self.fetched.append(source)
        if tag == "link" and values.get("rel") != "canonical" and (link := values.get("href")):
            self.fetched.append(link)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, with every warning as an error, and return its directory."""
    pytest.importorskip("material", reason="SKIPPED LOUDLY: pip install '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    return directory


def test_the_site_has_every_page(site: Path) -> None:
    for page in PAGES[2:]:
        path = page.relative_to(ROOT / "docs").with_suffix("")
        place = site if path.name == "index" else site / path
        assert "<h1" in (place / "index.html").read_text("utf-8"), page
    assert (site / "repository" / "CHANGELOG" / "index.html").exists()
    assert not list(site.rglob("*.py"))


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = 0
    for page in site.rglob("*.html"):
        parser = _Fetched()
        parser.feed(page.read_text("utf-8"))
        for link in parser.fetched:
            url = urlsplit(link)
            assert not url.netloc, (page, link)
            if page.name == "404.html":
                continue  # its links start from the site's root, which a directory does not have
            assert (page.parent / unquote(url.path)).resolve().exists(), (page, link)
            fetched += 1
    assert fetched > 50
    for sheet in site.rglob("*.css"):
        assert "//fonts." not in sheet.read_text("utf-8")


def test_the_site_shows_recipes_as_blocks(site: Path) -> None:
    text = (site / "upgrading" / "index.html").read_text("utf-8")
    assert "```" not in text
    assert text.count('<div class="highlight">') > 3


def test_the_page_on_performance_is_up_to_date() -> None:
    document = json.loads((ROOT / "docs" / "performance.json").read_text("utf-8"))
    page = as_markdown(*from_json(document), facts=document["machine"], quick=False)
    assert (ROOT / "docs" / "performance.md").read_text("utf-8") == page, (
        "run: python -m benchmarks --render"
    )


@pytest.mark.skipif(CHROME is None, reason="Chromium (Debian: chromium) is missing")
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_in_the_site_is_wider_than_the_window(
    site: Path, width: int, tmp_path: Path
) -> None:
    with closing(Browser(tmp_path / "profile")) as browser:
        browser.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        for page in PAGES[2:]:
            path = page.relative_to(ROOT / "docs").with_suffix("")
            place = site if path.name == "index" else site / path
            url = (place / "index.html").as_uri()
            browser.ask("Page.navigate", url=url)
            browser.wait(f"location.href == '{url}' && document.readyState == 'complete'")
            assert browser.run("document.documentElement.scrollWidth") <= width, page
            if width > 1000:  # on a phone a table scrolls by itself
                beyond = "[...document.querySelectorAll('.md-typeset__scrollwrap')]"
                beyond += ".filter(each => each.scrollWidth > each.clientWidth + 1).length"
                assert browser.run(beyond) == 0, page
