"""The report in a real browser: what it draws, shows, finds and prints, and that it loads nothing.

Needs Chromium or Chrome, as Debian's `chromium` installs it; skipped where there is none.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.model import OrderGroup
from exporter.report.page import report

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROME is None, reason="NO BROWSER: the report is not tested; install Debian's chromium"
)
HOSTILE = "</script><script>alert('1')</script>\"'\u202eevil\u2066😀<img src=x onerror=alert(2)>"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")

# The browser wants its pipe as descriptors 3 and 4, either of which may be in use here.
_WITH_PIPE = """
import fcntl, os, sys
pipe = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipe[0], 3)
os.dup2(pipe[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A headless browser, driven over the pipe that it has for that: no driver, no port."""

    def __init__(self, directory: Path) -> None:
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        flags += " --disable-background-networking --disable-component-update --disable-sync"
        flags += f" --remote-debugging-pipe --user-data-dir={directory}"
        pipe = (str(their_in), str(their_out))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PIPE, *pipe, CHROME or "", *flags.split(), "about:blank"],
            pass_fds=(their_in, their_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._in, self._out = our_in, our_out
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        page = next(
            each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page"
        )
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End it."""
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send one command, and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            parts.append(part)
        message, _, self._rest = b"".join(parts).partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, path: Path, *, width: int = 1200, scheme: str = "light") -> None:
        """Open a file, and wait until it is drawn."""
        self.events.clear()
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, *, pressed: bool = False) -> None:
        """Move, press or release the mouse."""
        button = "left" if pressed or kind == "mouseReleased" else "none"
        self.ask(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=int(pressed),
            clickCount=int(kind != "mouseMoved"),
        )

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Bring an element into view; its left, top, width and height there."""
        x, y, width, height = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        return x, y, width, height

    def drag(self, selector: str) -> None:
        """Drag over the second quarter of a picture."""
        x, y, width, height = self.place(selector)
        middle = y + height / 2
        self.mouse("mouseMoved", x + width * 0.3, middle)
        self.mouse("mousePressed", x + width * 0.3, middle, pressed=True)
        self.mouse("mouseMoved", x + width * 0.4, middle, pressed=True)
        self.mouse("mouseMoved", x + width * 0.5, middle, pressed=True)
        self.mouse("mouseReleased", x + width * 0.5, middle)

    def problems(self) -> list[dict[str, Any]]:
        """What the page complained of since it was opened, violations of its policy included."""
        kinds = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [event for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """What the page asked for since it was opened."""
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(sqlite_recorder: Any, tmp_path: Path) -> Path:
    """A report of two accounts, with changes, a gap, failures, and hostile names."""
    for minute in range(60):
        groups = [
            OrderGroup(f"group-{number}", (minute // (number + 5)) % 2 == 0) for number in range(30)
        ]
        if 20 <= minute < 30:
            sqlite_recorder.fail(60 * minute, "timeout")
        else:
            sqlite_recorder.ok(60 * minute, groups)
        sqlite_recorder.ok(60 * minute + 1, [OrderGroup(HOSTILE, minute < 30)], account=HOSTILE)
    path = tmp_path / "report.html"
    report(sqlite_recorder.url, path, intervals={"main": 60.0}, now=sqlite_recorder.at(3600))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_it_draws_without_a_complaint_and_asks_for_nothing(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width=width, scheme=scheme)
    time.sleep(0.2)  # for what might come late
    assert browser.run("document.querySelectorAll('.u-wrap canvas').length") == 7
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.requests() == [page.as_uri()]
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(16, 22, 29)")
    assert browser.problems() == []


def test_its_policy_stops_scripts_and_connections(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "window.ran = 0; const s = document.createElement('script'); s.textContent = 'ran = 1';"
        " document.body.append(s); fetch('http://127.0.0.1:9/').catch(() => {}); ran"
    )
    time.sleep(0.2)
    assert browser.run("ran") == 0
    assert any("Content Security Policy" in json.dumps(each) for each in browser.problems())


def test_hostile_texts_are_shown_as_texts(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = browser.run("[...document.querySelectorAll('bdi')].map((each) => each.textContent)")
    assert shown.count(SHOWN) == 3  # in the summary, as a heading, and as a group
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.scripts.length") == 2


@pytest.mark.parametrize("picture", ["canvas.timeline", ".u-over", ".lanes canvas"])
def test_hovering_tells_what_is_there(browser: Browser, page: Path, picture: str) -> None:
    browser.open(page)
    assert browser.run("tip.hidden")
    x, y, width, height = browser.place(f"#account-1 {picture}")
    browser.mouse("mouseMoved", x + width * 0.2, y + height / 2)
    browser.mouse("mouseMoved", x + width * 0.45, y + height / 2)
    assert not browser.run("tip.hidden")
    assert "2026-03-01" in browser.run("tip.textContent")
    assert "observed" in browser.run("tip.textContent")  # not: the gap is there


@pytest.mark.parametrize("picture", ["canvas.timeline", ".u-over", ".lanes canvas"])
def test_dragging_zooms_everything(browser: Browser, page: Path, picture: str) -> None:
    browser.open(page)
    before = browser.run("[view.from, view.to]")
    browser.drag(f"#account-1 {picture}")
    after = browser.run("[view.from, view.to]")
    assert before[0] < after[0] < after[1] < before[1]
    assert after[1] - after[0] < (before[1] - before[0]) / 3
    browser.run("document.querySelector('.toolbar button:nth-of-type(5)').click()")
    assert browser.run("[view.from, view.to]") == before
    assert browser.problems() == []


def test_it_can_be_used_with_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('.toolbar button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.ask(
            "Input.dispatchKeyEvent",
            type=kind,
            key="Enter",
            code="Enter",
            windowsVirtualKeyCode=13,
            **({"text": "\r"} if kind == "keyDown" else {}),
        )
    assert browser.run("view.to - view.from") < browser.run("(data.until - data.since) * 0.6")
    unnamed = browser.run(
        "[...document.querySelectorAll('button, canvas:not(.swatch), input')].filter((each) =>"
        " !each.closest('[role=img][aria-label]') && !each.ariaLabel && !each.textContent"
        " && !each.labels?.length).length"
    )
    assert unnamed == 0
    assert browser.run("document.querySelectorAll('h1').length") == 1


def test_what_is_heard_instead_of_seen_has_names_of_its_own(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    time.sleep(0.2)  # for the tables to be made
    names: dict[str, list[str]] = {}
    for node in browser.ask("Accessibility.getFullAXTree")["nodes"]:
        if not node.get("ignored"):
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value"))
    for role in ("image", "figure", "region", "searchbox", "button", "toolbar", "heading", "link"):
        assert names[role], role
        assert all(names[role]), role
    assert len(names["figure"]) >= 7
    for role in ("image", "figure", "region"):  # where one can jump from one to the next
        assert len(set(names[role])) == len(names[role]), sorted(names[role])
    # What can be seen can be read.
    without_table = browser.run(
        "[...document.querySelectorAll('figure')].filter((each) => !each.querySelector('table'))"
        ".map((each) => each.querySelector('[role=img]').getAttribute('aria-label'))"
    )
    assert without_table == [f"Coverage of {SHOWN}: no gaps"]


def test_a_group_is_found_and_its_states_are_read(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "(() => { const input = document.querySelector('#account-1 input');"
        " input.value = 'GROUP-29'; input.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run("document.querySelector('#account-1 .lanes').children.length") == 1
    assert browser.run("document.querySelector('#account-1 .lanes bdi').textContent") == "group-29"
    browser.run("document.querySelector('#account-1 .lanes summary').click()")
    time.sleep(0.2)
    assert "auto-cancel off" in browser.run(
        "document.querySelector('#account-1 .lanes table').textContent"
    )


def find(browser: Browser, text: str) -> str:
    """Search for a group of the first account; what the page says of what it found."""
    browser.run(
        "(() => { const input = document.querySelector('#account-0 input');"
        f" input.value = {json.dumps(text)}; input.dispatchEvent(new Event('input')); }})()"
    )
    return str(browser.run("document.querySelector('#account-0 [role=status]').textContent"))


def test_what_the_search_cannot_find_it_says_where_to_find(
    browser: Browser, sqlite_recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    sqlite_recorder.ok(0, [OrderGroup(f"group-{number:03}", True) for number in range(300)])
    report(sqlite_recorder.url, path, intervals={}, now=sqlite_recorder.at(60))
    browser.open(path)
    assert find(browser, "group-299") == "1 of 1 order groups found."
    assert find(browser, "never") == "No order group has this in its id."

    smallest = len(path.read_bytes()) - 4_000
    monkeypatch.setattr("exporter.report.page._LARGEST", smallest)
    done = report(sqlite_recorder.url, path, intervals={}, now=sqlite_recorder.at(60))
    assert 50 < done.shown < 299
    browser.open(path)
    assert find(browser, "group-000").startswith("1 of 1 order groups found on this page. ")
    said = find(browser, "group-299")
    assert said.startswith("No order group on this page has this in its id. ")
    assert f"{300 - done.shown} more, those with the fewest changes, found no room" in said
    assert said.endswith("kalshi-exporter export history --account main --group group-299")
    assert find(browser, "it's").endswith("--group 'it'\\''s'")
    assert browser.problems() == []


def test_many_accounts_are_drawn_when_one_comes_near(
    browser: Browser, sqlite_recorder: Any, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    for number in range(20):
        sqlite_recorder.ok(number, [OrderGroup("g", True)], account=f"account-{number:02}")
    report(sqlite_recorder.url, path, intervals={}, now=sqlite_recorder.at(60))
    browser.open(path)
    undrawn = "document.querySelectorAll('.account:not(:has(canvas))').length"
    assert 5 < browser.run(undrawn) <= 12
    assert browser.run("document.querySelectorAll('section.account h2').length") == 20
    browser.run("location.hash = '#account-19'")
    time.sleep(0.3)  # for the browser to notice
    assert browser.run("document.querySelectorAll('#account-19 canvas.timeline').length") == 2
    assert browser.run(undrawn) > 5
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(undrawn) == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.problems() == []


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, scheme="dark")
    printed = browser.ask("Page.printToPDF", printBackground=True)["data"]
    assert len(printed) > 50_000
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("getComputedStyle(document.querySelector('.toolbar')).display") == "none"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("document.querySelector('canvas.timeline').clientWidth") <= 680
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.problems() == []
    browser.ask("Emulation.setEmulatedMedia", media="")
