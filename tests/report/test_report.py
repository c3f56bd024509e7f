"""What a report says: read from the page's own data, the same on both databases."""

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from exporter.database.database import Database
from exporter.errors import ConfigurationError
from exporter.history.migrate import ensure_current
from exporter.history.schema import accounts, coverage, to_text
from exporter.model import OrderGroup
from exporter.report.page import report

START = datetime(2026, 1, 1, tzinfo=UTC)
ODD = '{"text":"</script><!-- \\u2028 & \\u0000"}'
A = OrderGroup("a", True, "10.00", 0, ODD)
A_OFF = OrderGroup("a", False, "10.00", 0, ODD)
B = OrderGroup("b", True)
HOSTILE = OrderGroup('</script><script>alert("1")</script>\u2028\u202e', True)

Page = dict[str, Any]
Make = Callable[..., Page]


def data_of(page: Path) -> Page:
    """The data inside a page."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8")
    )
    assert len(found) == 1
    data: Page = json.loads(found[0])
    return data


def account_of(page: Page, name: str = "main") -> Any:
    """What a page has of one account."""
    return next(account for account in page["accounts"] if account["name"] == name)


def said(account: Any) -> str:
    """All that is said of an account in words."""
    return " ".join(text for _, text in account["sentences"])


@pytest.fixture
def make(recorder: Any, tmp_path: Path) -> Make:
    """Make a report as of so many seconds after the start, and read its data."""

    def make(now: float, **how: Any) -> Page:
        path = tmp_path / "report.html"
        how = {"intervals": {"main": 60.0}} | how
        report(recorder.url, path, now=recorder.at(now), **how)
        return data_of(path)

    return make


def test_a_history_without_faults_says_so(recorder: Any, make: Make) -> None:
    for minute in range(5):
        recorder.ok(60 * minute, [A, B] if minute < 3 else [A_OFF, B])
    main = account_of(make(250))
    assert "All of it was observed" in said(main)
    assert "Recording: the last observation was 10 s before" in said(main)
    assert "2 order groups stood at the last observation: 1 with auto-cancel on, 1 off" in said(
        main
    )
    assert "1 change: 0 appeared, 1 changed, 0 disappeared" in said(main)
    assert main["segments"] == []
    assert [(lane[0], lane[1]) for lane in main["lanes"]] == [("a", 1), ("b", 0)]
    ticks = main["lanes"][0][2::2]
    since = recorder.at(0).timestamp()
    page_since = make(250)["since"]
    assert [round(page_since - since + tick * main["tick"], 3) for tick in ticks] == [0, 180]
    assert [main["states"][state] for state in main["lanes"][0][3::2]] == [
        [1, "10.00", 0, ODD],
        [0, "10.00", 0, ODD],
    ]
    assert main["versions"][0][3] == 5


def test_gaps_have_causes_and_nothing_is_told_of_them(recorder: Any, make: Make) -> None:
    recorder.ok(0, [A])
    for minute in range(1, 20):
        recorder.fail(60 * minute, "timeout" if minute < 15 else "unreachable")
    recorder.ok(1200, [A, B])
    recorder.ok(1260, [B])
    recorder.ok(1320, [B])
    page = make(4000)
    main = account_of(page)
    assert [segment[2] for segment in main["segments"]] == ["timeout", "not_running"]
    assert "Not recording now" in said(main)
    assert "because the exchange was too slow" in said(main)
    assert main["facts"][1] == ["Observed", "3.00 %", "bad"]
    # Between 60 s and 1200 s nobody knows.
    grid = page["grid"]
    part = int((recorder.at(600).timestamp() - grid["start"]) // grid["width"])
    assert main["standing"][part] is None
    assert sum(count for _, _, count in main["failed"]) == 19
    assert main["messages"][0][:4] == ["timeout", None, 'E1: said "no", twice', 14]
    assert sum(appeared for _, appeared, _, _ in main["changes"]) == 1
    assert sum(gone for *_, gone in main["changes"]) == 1
    assert main["lanes"][0][:2] == ["a", 1]
    assert main["lanes"][0][-1] == -1


def test_a_span_is_cut_out(recorder: Any, make: Make) -> None:
    for minute in range(10):
        recorder.ok(60 * minute, [A] if minute % 2 else [A_OFF])
    main = account_of(make(600, since=recorder.at(170), until=recorder.at(310)))
    assert main["lanes"][0][1] == 3
    assert said(main).count("All of it was observed: 2 min 20 s") == 1
    with pytest.raises(ValueError, match="--since must be before"):
        make(600, since=recorder.at(700))
    with pytest.raises(ValueError, match="--since must be before --until"):
        make(600, since=recorder.at(60), until=recorder.at(60))


@pytest.mark.parametrize("now", [0.0, 0.3, 1.0, 30.0])
def test_one_poll_and_no_groups(recorder: Any, make: Make, now: float) -> None:
    recorder.ok(0, [])
    main = account_of(make(now))
    assert "0 order groups stood" in said(main)
    assert main["lanes"] == []


def test_nothing_but_failures(recorder: Any, make: Make) -> None:
    recorder.fail(0, "unauthorized")
    recorder.fail(60, "unauthorized")
    main = account_of(make(120))
    assert "Never observed: the exchange refused the key." in said(main)
    assert main["facts"][1] == ["Observed", "never", "bad"]
    assert main["segments"][-1][2] == "unauthorized"


def test_nothing_at_all(make: Make) -> None:
    page = make(0)
    assert "Never observed: the exporter was not running." in said(account_of(page))
    assert make(0, intervals={})["accounts"] == []


def test_accounts_are_apart(recorder: Any, make: Make) -> None:
    for minute in range(4):
        recorder.ok(60 * minute, [A])
        recorder.ok(60 * minute + 1, [B], account="other")
    page = make(200)
    assert [account["name"] for account in page["accounts"]] == ["main", "other"]
    assert [lane[0] for lane in account_of(page, "other")["lanes"]] == ["b"]
    assert [each["name"] for each in make(200, account_names=["other"])["accounts"]] == ["other"]


def test_pruned_polls_are_told_of(recorder: Any, make: Make) -> None:
    for number in range(20):
        recorder.ok(1000 * number, [A], interval=1000)
    with recorder.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM polls WHERE id <= 10")
    main = account_of(make(19_100, intervals={"main": 1000.0}))
    assert "are no longer kept" in said(main)
    assert "All of it was observed" in said(main)


def test_what_the_exchange_sends_cannot_end_the_script(
    recorder: Any, tmp_path: Path, make: Make
) -> None:
    recorder.ok(0, [A, HOSTILE], account="<b>&amp;</b>")
    page = make(10)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("</script>") == 2
    assert "\u2028" not in text
    assert page["accounts"][0]["name"] == "<b>&amp;</b>"
    assert HOSTILE.id in {lane[0] for lane in page["accounts"][0]["lanes"]}


def test_no_file_is_left_where_there_is_no_history(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(ConfigurationError):
        report(
            f"sqlite:///{tmp_path}/none.db",
            path,
            intervals={},
            now=START,
        )
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("names", "groups", "states", "shown"),
    [
        (1, 100_000, 1, 12_000),
        (1, 1_000, 100, 650),
        (1, 10, 10_000, 10),
        (1, 1, 100_000, 1),
        (100, 1_000, 1, 9_000),
        (100, 10, 100, 850),
    ],
)
def test_a_hundred_thousand_snapshots_make_a_small_page(  # noqa: PLR0917  # pytest's arguments
    sqlite_url: str, tmp_path: Path, names: int, groups: int, states: int, shown: int
) -> None:
    end = START + timedelta(days=100)
    accounts_ = [f"account-{number:03}" for number in range(names)]
    fill(sqlite_url, accounts_, groups, states, end)
    path = tmp_path / "report.html"
    before = time.perf_counter()
    done = report(sqlite_url, path, intervals=dict.fromkeys(accounts_, 60.0), now=end)
    assert time.perf_counter() - before < 30  # on a machine that is busy with other tests
    assert path.stat().st_size < 1_500_000
    assert (done.accounts, done.accounts_shown, done.groups) == (names, names, names * groups)
    assert done.shown >= shown
    lanes = [account["lanes"] for account in data_of(path)["accounts"]]
    assert sum(map(len, lanes)) == done.shown
    assert min(map(len, lanes)) >= min(groups, 5)
    assert all(each[0][1] == states - 1 for each in lanes)


def test_more_accounts_than_a_page_holds_are_left_out_and_counted(
    sqlite_url: str, tmp_path: Path
) -> None:
    end = START + timedelta(days=2)
    names = [f"{number:03}-{'x' * 12_000}" for number in range(120)]
    fill(sqlite_url, names, 1, 1, end)
    path = tmp_path / "report.html"
    done = report(sqlite_url, path, intervals={}, now=end)
    assert path.stat().st_size < 1_500_000
    assert done.accounts == 120
    page = data_of(path)
    assert 0 < done.accounts_shown == len(page["accounts"]) == 120 - page["left_out"] < 120


def fill(url: str, names: list[str], groups: int, states: int, end: datetime) -> None:
    """Let each account have had so many groups of so many states, no two of them alike."""
    instants = [to_text(START + (end - START) / states * number) for number in range(states)]
    ends = [*instants[1:], None]
    rows = (
        (
            name,
            # Ids without any order or repetition, as the exchange's.
            str(UUID(int=(group + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)),
            instant,
            number % 2,
            f"{number + group / 100_000:f}",
            f'{{"number":{number},"group":{group}}}',
            instants[number - 1] if number else None,
            ended,
            ended and "changed",
        )
        for name in names
        for group in range(groups)
        for number, (instant, ended) in enumerate(zip(instants, ends, strict=True))
    )
    with closing(Database(url)) as database:
        ensure_current(database, auto_migrate=True)
        with database.transaction() as connection:
            connection.connection.cursor().executemany(
                "INSERT INTO order_group_snapshots (account, order_group_id, valid_from,"
                " is_auto_cancel_enabled, contracts_limit, extra, not_before, valid_to, end_reason,"
                " first_poll_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
                list(rows),
            )
            for name in names:
                connection.execute(
                    coverage.insert(),
                    {"account": name, "started_at": START, "ended_at": end, "polls": 144_000},
                )
                connection.execute(
                    accounts.insert(),
                    {"account": name, "version": 1, "observed_at": end}
                    | {"failed_polls": 0, "refused_polls": 0},
                )


def test_the_command_says_what_it_wrote(
    sqlite_recorder: Any, write_config: Any, run_cli: Any, tmp_path: Path
) -> None:
    write_config(base_url="http://127.0.0.1:9/trade-api/v2")
    sqlite_recorder.ok(0, [A, B])
    done = run_cli("report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote report.html: 2026-03-01T11:59:59Z to ")
    assert done.stdout.endswith("accounts: 1, order groups: 2.\n")
    assert account_of(data_of(tmp_path / "report.html"))["groups"] == 2
    wrong = run_cli("report", "--since", "2026-03-02", "--until", "2026-03-01T00:00:00Z")
    assert wrong.returncode == 2
    assert "--since must be before" in wrong.stderr
    nowhere = run_cli("report", "-o", "no/such/directory/report.html")
    assert nowhere.returncode == 74
    assert "Traceback" not in nowhere.stderr
