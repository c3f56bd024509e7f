"""Test the report in a real browser: its content, its controls, and that it loads nothing.

The tests need Chromium or Chrome, such as Debian's `chromium`, and are skipped without one.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.model import OrderGroup
from exporter.report.page import report
from tests.support.browser import CHROME, Browser
from tests.support.samples import UNTIL, Gap, Sample, write_samples

pytestmark = pytest.mark.skipif(
    CHROME is None, reason="NO BROWSER: the report is not tested; install Debian's chromium"
)
HOSTILE = "</script><script>alert('1')</script>\"'\u202eevil\u2066😀<img src=x onerror=alert(2)>"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")

OUTAGE: tuple[Gap, ...] = ((40, 37, "server_error"), (20, 19.2, "not_running"))
DESKS = [
    Sample(
        name="main",
        gaps=OUTAGE,
        stream_gaps=((40, 37, "disconnected"), (20, 19, "not_listening")),
    ),
    Sample(name="hedge", seed=9, groups=60),
    Sample(
        name="desk-03",
        seed=3,
        gaps=((6.5, 0, "unauthorized"),),
        stream_gaps=((6.5, 0, "unauthorized"),),
    ),
    Sample(name="polls-only", seed=5, stream_gaps=None),
]

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield one browser for all tests of this module."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that writes a report of some samples."""

    def make(samples: list[Sample]) -> Path:
        directory = tmp_path_factory.mktemp("report")
        url = f"sqlite:///{directory}/order_groups.db"
        write_samples(url, samples)
        path = directory / "report.html"
        intervals = {each.name: each.interval for each in samples}
        report(url, path, intervals=intervals, now=UNTIL)
        return path

    return make


@pytest.fixture(scope="module")
def desks(make: Make) -> Path:
    """Write a report of four accounts, one of which no longer records."""
    return make(DESKS)


@pytest.fixture
def hostile(sqlite_recorder: Any, tmp_path: Path) -> Path:
    """Write a report in which an account and a group have hostile names."""
    for minute in range(5):
        sqlite_recorder.ok(60 * minute, [OrderGroup(HOSTILE, minute < 3)], account=HOSTILE)
        sqlite_recorder.ok(60 * minute, [OrderGroup("plain", True)])
    path = tmp_path / "report.html"
    report(sqlite_recorder.url, path, intervals={HOSTILE: 60.0}, now=sqlite_recorder.at(250))
    return path


def texts(browser: Browser, selector: str) -> list[str]:
    """Return the text of each element that matches."""
    found: list[str] = browser.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"
    )
    return found


def fragment(browser: Browser) -> dict[str, str]:
    """Return the view's settings in the URL fragment."""
    found: dict[str, str] = browser.run("read()")
    return found


def choose(browser: Browser, selector: str, value: str) -> None:
    """Type into a field, or choose from a list."""
    browser.run(
        f"(() => {{ const field = document.querySelector({json.dumps(selector)});"
        f" field.value = {json.dumps(value)};"
        " for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind)); })()"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("address", ["", "#account=main", "#account=main&show=triggered"])
def test_it_renders_without_errors_or_requests(
    browser: Browser, desks: Path, address: str, width: int, scheme: str
) -> None:
    browser.open(desks, address, width=width, scheme=scheme)
    time.sleep(0.2)  # late requests and errors would appear by then
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert [each.partition("#")[0] for each in browser.requests()] == [desks.as_uri()]
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(244, 246, 248)" if scheme == "light" else "rgb(15, 20, 26)")
    assert browser.problems() == []


def test_its_security_policy_blocks_scripts_and_connections(browser: Browser, desks: Path) -> None:
    browser.open(desks)
    browser.run(
        "window.ran = 0; const s = document.createElement('script'); s.textContent = 'ran = 1';"
        " document.body.append(s); fetch('http://127.0.0.1:9/').catch(() => {}); ran"
    )
    time.sleep(0.2)
    assert browser.run("ran") == 0
    assert any("Content Security Policy" in json.dumps(each) for each in browser.problems())


def test_hostile_texts_are_shown_as_texts(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    assert SHOWN in texts(browser, "bdi")
    browser.run(f"go({{ account: {json.dumps(HOSTILE)}, group: {json.dumps(HOSTILE)} }})")
    browser.wait("document.querySelector('dialog[open]')")
    assert texts(browser, "h1 bdi, .group bdi, dialog h2 bdi") == [SHOWN] * 3
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.scripts.length") == 2
    assert browser.problems() == []


def test_the_first_screen_says_what_is_wrong_and_lists_accounts_worst_first(
    browser: Browser, make: Make
) -> None:
    samples = [
        Sample(name=f"desk-{number:02}", hours=24, interval=600, groups=3, seed=number)
        for number in range(49)
    ]
    dead = (9.5, 0, "unauthorized")
    samples.append(Sample(name="desk-77", hours=24, interval=600, gaps=[dead], stream_gaps=[dead]))
    browser.open(make(samples))
    assert texts(browser, "h1") == [
        "1 of 50 accounts is not recording: desk-77, since 05:01, the exchange refused the key."
    ]
    assert browser.run("document.querySelector('h1').className") == "wrong"
    names = texts(browser, ".accounts tbody a")
    assert (len(names), names[0]) == (50, "desk-77")
    assert "the exchange refused the key" in texts(browser, ".accounts tbody th .state")[0]
    # The first screen shows the verdict and the failing account, in a compact table.
    assert (
        browser.run("document.querySelector('.accounts tbody tr').getBoundingClientRect().y") < 300
    )
    assert browser.run("document.documentElement.scrollHeight") < 3_000


def test_the_table_is_sorted_by_mouse_and_keyboard(browser: Browser, desks: Path) -> None:
    browser.open(desks)
    assert texts(browser, ".accounts [aria-sort]") == ["Coverage, worst first"]
    browser.run("document.querySelector('th.triggers button').click()")
    triggers = [int(each) for each in texts(browser, "td.triggers")]
    assert triggers == sorted(triggers, reverse=True)
    assert len(set(triggers)) > 1
    browser.run("document.querySelector('th.triggers button').focus()")
    browser.press("Enter", text="\r", code=13)
    assert [int(each) for each in texts(browser, "td.triggers")] == sorted(triggers)
    assert browser.run("document.querySelector('th.triggers').ariaSort") == "ascending"
    assert fragment(browser) == {"by": "-triggers"}


def test_a_row_opens_its_account_and_back_returns(browser: Browser, desks: Path) -> None:
    browser.open(desks)
    x, y, width, height = browser.place(".accounts tbody tr:nth-child(2) td.groups")
    browser.mouse("mousePressed", x + width / 2, y + height / 2, pressed=True)
    browser.mouse("mouseReleased", x + width / 2, y + height / 2)
    browser.wait("document.querySelector('.account h1')")
    assert texts(browser, "h1") == ["main"]
    assert browser.run("document.activeElement.localName") == "h1"
    browser.run("history.back()")
    browser.wait("document.querySelector('.accounts')")
    assert browser.problems() == []


def test_past_gaps_raise_no_alarm(browser: Browser, make: Make) -> None:
    years, gaps = 24 * 365 * 3, 3_000
    missed = years * 0.0109 / gaps
    starts = [years * (number + 0.7) / gaps for number in range(gaps)]
    sample = Sample(
        hours=years, groups=5, gaps=[(start, start - missed, "timeout") for start in starts]
    )
    path = make([sample])
    browser.open(path)
    assert texts(browser, "h1") == ["main is recording, polls and events."]
    assert browser.run("document.querySelector('h1').className") == "well"
    assert texts(browser, "td.observed") == ["98.91 %"]
    alarm = browser.run("getComputedStyle(document.documentElement).getPropertyValue('--alarm')")
    colored = browser.run(
        "[...document.querySelectorAll('main *')].map((each) => getComputedStyle(each))"
        ".flatMap((style) => [style.color, style.backgroundColor, style.fill])"
    )
    red = tuple(int(alarm.strip()[at : at + 2], 16) for at in (1, 3, 5))
    assert f"rgb{red}" not in colored
    # In each column of the strip, the height of a gap is its share of the time.
    browser.open(path, "#account=main")
    heights = browser.run(
        "[...document.querySelectorAll('.picture .exchange')]"
        ".map((each) => Number(each.getAttribute('height')))"
    )
    assert heights
    assert max(heights) < 6


def test_a_first_poll_is_visible(browser: Browser, sqlite_recorder: Any, tmp_path: Path) -> None:
    sqlite_recorder.ok(0, [OrderGroup("first", False)])
    path = tmp_path / "report.html"
    report(sqlite_recorder.url, path, intervals={"main": 60.0}, now=sqlite_recorder.at(0))
    browser.open(path, "#account=main")
    for look in ("covered", "active"):
        widths = browser.run(
            f"[...document.querySelectorAll('.picture .{look}')]"
            ".map((each) => each.getBoundingClientRect().width)"
        )
        assert widths
        assert min(widths) > 1


@pytest.mark.parametrize("row", [2, 4, 5, 6])  # polls, triggers, groups, changes
def test_hovering_shows_details(browser: Browser, desks: Path, row: int) -> None:
    browser.open(desks, "#account=main")
    assert browser.run("tip.hidden")
    pictures = browser.run("document.querySelectorAll('.account > .row > .picture').length")
    assert pictures == 5
    browser.run(
        "[...document.querySelectorAll('.account > .row > .picture')]"
        f".at({[2, 4, 5, 6].index(row) + (row > 2)}).classList.add('looked-at')"
    )
    x, y, width, height = browser.place(".looked-at")
    tips = set()
    for share in range(2, 99):
        browser.mouse("mouseMoved", x + width * share / 100, y + height / 2)
        if not browser.run("tip.hidden"):
            tips.add(browser.run("tip.textContent"))
    assert tips
    assert all("2026-03-" in each for each in tips)
    words = {2: "the exchange failed", 4: "told by the exchange", 5: "groups", 6: "appeared"}
    assert any(words[row] in each for each in tips)


def test_dragging_zooms_everything_and_the_address_keeps_it(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main")
    before = browser.run("[view.from, view.to]")
    browser.drag(".account > .row > .picture")
    after = browser.run("[view.from, view.to]")
    assert before[0] < after[0] < after[1] < before[1]
    assert after[1] - after[0] == pytest.approx((before[1] - before[0]) / 5, rel=0.05)
    assert set(fragment(browser)) == {"account", "from", "to"}
    address = browser.run("location.hash")
    fields = browser.run(
        "[...document.querySelectorAll('.toolbar input')].map((each) => each.value)"
    )
    browser.open(desks, address)  # as from a shared link
    assert browser.run("[view.from, view.to]") == after
    assert fields == browser.run(
        "[...document.querySelectorAll('.toolbar input')].map((each) => each.value)"
    )
    browser.run("document.querySelector('[aria-label^=\"All:\"]').click()")
    assert browser.run("[view.from, view.to]") == before
    assert fragment(browser) == {"account": "main"}
    assert browser.problems() == []


def test_a_time_can_be_typed(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main")
    choose(browser, ".toolbar input", "2026-03-18 22:00:00")
    whole = browser.run("view.to")
    assert browser.run("view.from") == 1773871200
    choose(browser, ".toolbar label:nth-of-type(2) input", "2026-03-19 06:00")
    assert browser.run("view.to") == 1773900000 < whole
    choose(browser, ".toolbar input", "yesterday")
    assert browser.run("document.querySelector('.toolbar input').value") == (
        "2026-03-18 22:00:00.000"
    )


def test_events_are_marked_to_the_millisecond(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main&show=triggered")
    at, group = browser.run(
        "(() => { const account = data.accounts.find((each) => each.name === 'main');"
        " const group = account.list.find((each) => each.triggers.length && each.triggers[0][2]);"
        " return [group.triggers[0][0], group.id]; })()"
    )
    browser.run(f"setView({at - 0.05}, {at + 0.05})")
    choose(browser, ".controls input[type=search]", group)
    browser.wait("document.querySelectorAll('.group').length === 1")
    x, y, width, height = browser.place(".group .mark.triggered")
    middle = (x + width / 2, y + height / 2)
    browser.mouse("mouseMoved", middle[0] - 40, middle[1])
    browser.mouse("mouseMoved", *middle)
    exact = browser.run(f"exact({at})")
    assert f"{exact} triggered" in browser.run("tip.textContent")
    # Zoomed in, the triggers' own row marks each event too.
    assert browser.run("document.querySelectorAll('.account > .row .mark.triggered').length") == 1


def test_groups_are_filtered_sorted_and_found(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=hedge")
    every = texts(browser, ".group .open")
    for show, word in (("standing", ""), ("triggered", "trigger"), ("changed", "change")):
        browser.run(f"document.querySelector('input[value={show}]').click()")
        assert fragment(browser)["show"] == show
        labels = texts(browser, ".group .label")
        assert labels
        assert all(word in each for each in labels)
        assert show != "standing" or not any("gone" in each for each in labels)
    for sort, name in (("triggers", "trigger"), ("changes", "change")):
        browser.run("document.querySelector('input[value=all]').click()")
        choose(browser, ".controls select", sort)
        labels = texts(browser, ".group .note")
        counts = [
            next((int(part.split()[0]) for part in each.split(" · ") if name in part), 0)
            for each in (label.replace("triggered", "") for label in labels)
        ]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 1
    choose(browser, ".controls input[type=search]", every[3][:13].upper())
    assert texts(browser, ".group .open") == [every[3]]
    assert texts(browser, ".timelines [role=status]")[0].startswith("1 of 60 order groups")
    state = texts(browser, ".group .label p")[0]
    assert state.split(" · ")[0] in {"active", "triggered", "gone"}
    browser.open(desks, browser.run("location.hash"))
    assert texts(browser, ".group .open") == [every[3]]


def test_a_group_opens_with_its_states_and_events(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main&sort=triggers")
    browser.run("document.querySelector('.group .open').focus()")
    browser.press("Enter", text="\r", code=13)
    browser.wait("document.querySelector('dialog[open]')")
    lines = texts(browser, "dialog tbody tr")
    for what in ("polls", "event", "told by the exchange", "active", "limit"):
        assert any(what in line for line in lines), what
    assert lines == sorted(lines, key=lambda line: line[:23], reverse=True)
    assert "group" in fragment(browser)
    browser.press("Escape", code=27)
    browser.wait("!document.querySelector('dialog')")
    assert "group" not in fragment(browser)


def test_a_hundred_thousand_groups_are_paged_smoothly(
    browser: Browser, sqlite_recorder: Any, tmp_path: Path
) -> None:
    count = 100_000
    sqlite_recorder.ok(0, [OrderGroup(f"group-{number:06}", False) for number in range(count)])
    path = tmp_path / "report.html"
    done = report(sqlite_recorder.url, path, intervals={"main": 60.0}, now=sqlite_recorder.at(9))
    assert path.stat().st_size < 1_500_000
    browser.open(path, "#account=main")
    rows = "document.querySelectorAll('.group').length"
    assert browser.run(rows) < 60
    assert browser.run("document.querySelector('.group').ariaSetSize") == str(done.shown)
    browser.run(
        "(() => { const list = document.querySelector('.scroller');"
        " list.scrollTop = list.scrollHeight; })()"
    )
    browser.wait(f"document.querySelector('.group:last-child').ariaPosInSet === '{done.shown}'")
    assert browser.run(rows) < 60
    left = texts(browser, ".timelines [role=status]")[0]
    assert f"{done.shown:,} of {done.shown:,} order groups" in left
    assert (done.shown == count) == ("did not fit" not in left)
    # The list reserves the height of every row.
    assert browser.run("document.querySelector('.rows').clientHeight") >= 50 * done.shown
    assert browser.problems() == []


def test_omitted_groups_are_counted(
    browser: Browser, sqlite_recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    sqlite_recorder.ok(0, [OrderGroup(f"{number * 7919:09x}", True) for number in range(3_000)])
    report(sqlite_recorder.url, path, intervals={}, now=sqlite_recorder.at(60))
    smallest = len(path.read_bytes()) - 4_000
    for name, size in (("_LARGEST", smallest), ("_EMPTY", 0), ("_TIMELINES", 0)):
        monkeypatch.setattr(f"exporter.report.page.{name}", size)
    done = report(sqlite_recorder.url, path, intervals={}, now=sqlite_recorder.at(60))
    assert 50 < done.shown < 3_000
    browser.open(path, "#account=main&find=zzz")
    status = texts(browser, ".timelines [role=status]")[0]
    assert status.startswith("No order group on this page matches. ")
    assert f"{3_000 - done.shown:,} more, to which least happened, did not fit" in status
    assert status.endswith("kalshi-exporter export history --account main --group zzz")
    choose(browser, ".controls input[type=search]", "it's")
    assert texts(browser, ".timelines [role=status]")[0].endswith("--group 'it'\\''s'")
    assert browser.problems() == []


def test_a_thousand_accounts_open_with_few_elements_each(browser: Browser, make: Make) -> None:
    outage = (12, 9, "server_error")
    samples = [
        Sample(name=f"account-{number:04}", hours=24, interval=3_600, groups=2, seed=number)
        if number % 3
        else Sample(name=f"account-{number:04}", hours=24, interval=3_600, groups=2, gaps=[outage])
        for number in range(1_000)
    ]
    path = make(samples)
    assert path.stat().st_size < 1_500_000
    browser.open(path)
    assert len(texts(browser, ".accounts tbody tr")) == 1_000
    assert browser.run("document.querySelectorAll('*').length") < 30_000
    choose(browser, ".search input", "account-0777")
    assert texts(browser, ".accounts tbody a") == ["account-0777"]
    browser.run("document.querySelector('.accounts tbody a').click()")
    browser.wait("document.querySelector('.account h1')")
    assert texts(browser, "h1") == ["account-0777"]
    assert browser.problems() == []


def test_the_details_are_folded_and_open(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main")
    closed = browser.run("document.querySelectorAll('details:not([open])').length")
    assert closed == browser.run("document.querySelectorAll('details').length") >= 6
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    browser.wait("[...document.querySelectorAll('details')].every((each) => each.children[1])")
    text = " ".join(texts(browser, "details"))
    for what in (
        "the exchange failed",
        "service unavailable",
        "Triggers by group, most first",
        "Latency",
        "Clock",
        "0.3.0",
        "Probably triggered",
    ):
        assert what in text, what
    assert browser.problems() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("what", ["accounts", "account", "group"])
def test_axe_finds_no_violation(
    browser: Browser, desks: Path, what: str, width: int, scheme: str
) -> None:
    address = "" if what == "accounts" else "#account=main&sort=triggers"
    browser.open(desks, address, width=width, scheme=scheme)
    if what == "account":
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        time.sleep(0.3)
    if what == "group":
        browser.run("document.querySelector('.group .open').click()")
        browser.wait("document.querySelector('dialog[open]')")
    browser.run(f"{AXE}\n0")
    found = browser.run(
        "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>"
        " violations.map(({ id, nodes }) => [id, nodes.map((n) => n.html).slice(0, 3)]))"
    )
    assert found == []


def test_screen_readers_find_distinct_names(browser: Browser, desks: Path) -> None:
    browser.open(desks, "#account=main")
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    time.sleep(0.3)
    names: dict[str, list[str]] = {}
    for node in browser.ask("Accessibility.getFullAXTree")["nodes"]:
        if not node.get("ignored"):
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value"))
    for role in ("image", "region", "searchbox", "button", "toolbar", "heading", "link", "radio"):
        assert names[role], role
        assert all(names[role]), role
    for role in ("image", "region"):  # screen readers jump between these by name
        assert len(set(names[role])) == len(names[role]), sorted(names[role])


@pytest.mark.parametrize("address", ["", "#account=main"])
def test_it_prints_in_light_colors_without_controls(
    browser: Browser, desks: Path, address: str
) -> None:
    browser.open(desks, address, scheme="dark")
    printed = browser.ask("Page.printToPDF", printBackground=True)["data"]
    assert len(printed) > 20_000
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = browser.run(
        "[...document.querySelectorAll('nav, .toolbar button, .controls')]"
        ".every((each) => getComputedStyle(each).display === 'none')"
    )
    assert hidden
    if address:
        groups = browser.run("document.querySelectorAll('.group').length")
        assert groups == 24
    assert browser.problems() == []
