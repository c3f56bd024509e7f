"""Test the data inside a report's page, identical on both databases."""

import base64
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from exporter.database.database import Database
from exporter.errors import ConfigurationError
from exporter.history.migrate import ensure_current
from exporter.history.schema import (
    accounts,
    coverage,
    order_group_events,
    stream_coverage,
    to_text,
)
from exporter.model import OrderGroup
from exporter.reading import views
from exporter.reading.connect import read_only_transaction
from exporter.report import span as spans
from exporter.report.counting import tally_of
from exporter.report.page import report
from exporter.report.triggers import groups_with_events, timelines_of, triggers_of
from tests.support.samples import UNTIL, Sample, write_samples

START = datetime(2026, 1, 1, tzinfo=UTC)
ODD = '{"text":"</script><!-- \\u2028 & \\u0000"}'
A = OrderGroup("a", True, "10.00", 0, ODD)
A_OFF = OrderGroup("a", False, "10.00", 0, ODD)
B = OrderGroup("b", True)
HOSTILE = OrderGroup('</script><script>alert("1")</script>\u2028\u202e', True)

Page = dict[str, Any]
Make = Callable[..., Page]


def data_of(page: Path) -> Page:
    """Return the unpacked data of a page: accounts with their order groups as `lists`."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8")
    )
    assert len(found) == 1
    data: Page = json.loads(found[0])
    data["accounts"] = unpacked(data["packed"])
    for account, (groups, shown, packed) in zip(data["accounts"], data["timelines"], strict=True):
        batches = unpacked(packed)
        account |= {"all_groups": groups, "shown_groups": shown}
        for name, parts in (("states", "states"), ("kinds", "kinds"), ("lists", "groups")):
            account[name] = [each for batch in batches for each in batch[parts]]
        assert len(account["lists"]) == shown
    return data


def unpacked(packed: str) -> list[Any]:
    """Return the values of the JSON lines in a packed text."""
    return [json.loads(line) for line in zlib.decompress(base64.b64decode(packed)).splitlines()]


def account_of(page: Page, name: str = "main") -> Any:
    """Return the data of one account on a page."""
    return next(account for account in page["accounts"] if account["name"] == name)


@pytest.fixture
def make(recorder: Any, tmp_path: Path) -> Make:
    """Return a function that writes a report as of `now` seconds and returns its data."""

    def make(now: float, **how: Any) -> Page:
        path = tmp_path / "report.html"
        how = {"intervals": {"main": 60.0}} | how
        report(recorder.url, path, now=recorder.at(now), **how)
        return data_of(path)

    return make


def test_a_history_without_faults(recorder: Any, make: Make) -> None:
    for minute in range(5):
        recorder.ok(60 * minute, [A, B] if minute < 3 else [A_OFF, B])
    page = make(250)
    assert (page["well"], page["verdict"]) == (True, "main is recording.")
    main = account_of(page)
    assert (main["state"], main["observed"], main["heard"]) == ("recording", 1.0, None)
    assert (main["groups"], main["flagged"], main["changes"], main["failures"]) == (2, 1, 1, 0)
    assert main["last"] == round(recorder.at(240).timestamp(), 3)
    assert main["by_polls"]["segments"] == []
    assert [(each[0], each[1]) for each in main["lists"]] == [("a", 1), ("b", 0)]
    states = main["lists"][0][3]
    start = page["since"] - recorder.at(0).timestamp()
    instants = [start + sum(states[: at + 1 : 2]) / 1000 for at in range(0, len(states), 2)]
    assert [round(instant, 2) for instant in instants] == [0, 180]
    assert [main["states"][state] for state in states[1::2]] == [
        [1, "10.00", 0, ODD],
        [0, "10.00", 0, ODD],
    ]
    assert main["versions"][0][3] == 5


def test_gaps_have_causes_and_no_states(recorder: Any, make: Make) -> None:
    recorder.ok(0, [A])
    for minute in range(1, 20):
        recorder.fail(60 * minute, "timeout" if minute < 15 else "unreachable")
    recorder.ok(1200, [A, B])
    recorder.ok(1260, [B])
    recorder.ok(1320, [B])
    page = make(4000)
    assert page["verdict"] == ("main is not recording, since 12:22, the exporter was not running.")
    main = account_of(page)
    assert main["said"] == "not recording since 12:22: the exporter was not running"
    assert round(main["observed"], 3) == 0.03
    assert [each[2] for each in main["by_polls"]["segments"]] == ["timeout", "not_running"]
    assert [round(each[0]) for each in main["by_polls"]["longest"]] == [2680, 1200]
    # The state between 60 s and 1200 s is unknown.
    grid = page["grid"]
    part = int((recorder.at(600).timestamp() - grid["start"]) // grid["width"])
    assert main["standing"][part] is None
    assert sum(count for _, _, count in main["failed"]) == 19
    assert main["messages"][0][:4] == ["timeout", None, 'E1: said "no", twice', 14]
    assert sum(appeared for _, appeared, _, _ in main["changes_over_time"]) == 1
    assert sum(gone for *_, gone in main["changes_over_time"]) == 1
    assert main["lists"][0][:2] == ["a", 1]
    assert main["lists"][0][3][-1] == -1  # absent


def test_a_report_of_a_span(recorder: Any, make: Make) -> None:
    for minute in range(10):
        recorder.ok(60 * minute, [A] if minute % 2 else [A_OFF])
    main = account_of(make(600, since=recorder.at(170), until=recorder.at(310)))
    assert (main["lists"][0][1], main["changes"], main["observed"]) == (3, 3, 1.0)
    with pytest.raises(ValueError, match="--since must be before"):
        make(600, since=recorder.at(700))
    with pytest.raises(ValueError, match="--since must be before --until"):
        make(600, since=recorder.at(60), until=recorder.at(60))


@pytest.mark.parametrize("now", [-0.2, 0.0, 0.3, 1.0, 30.0])
def test_a_report_of_the_first_poll(recorder: Any, make: Make, now: float) -> None:
    recorder.ok(0, [A])
    page = make(now)
    main = account_of(page)
    assert page["until"] - page["since"] >= 1
    assert page["verdict"] == "main is recording."
    assert (main["groups"], main["observed"]) == (1, 1.0)
    assert [each for each in main["by_polls"]["segments"] if each[2] != "before"] == []
    assert 1 in main["standing"]


def test_an_account_without_groups(recorder: Any, make: Make) -> None:
    recorder.ok(0, [])
    main = account_of(make(10))
    assert (main["groups"], main["lists"]) == (0, [])


def test_an_account_that_only_failed(recorder: Any, make: Make) -> None:
    recorder.fail(0, "unauthorized")
    recorder.fail(60, "unauthorized")
    page = make(120)
    main = account_of(page)
    assert page["verdict"] == "main is not recording, never yet, the exchange refused the key."
    assert (main["state"], main["observed"], main["groups"]) == ("never", 0.0, None)
    assert main["by_polls"]["segments"][-1][2] == "unauthorized"


def test_an_account_without_polls(make: Make) -> None:
    page = make(0)
    assert page["verdict"] == "main is not recording, never yet, the exporter was not running."
    empty = make(0, intervals={})
    assert (empty["accounts"], empty["well"]) == ([], False)


def test_accounts_are_sorted_worst_first(recorder: Any, make: Make) -> None:
    for minute in range(40):
        recorder.ok(60 * minute, [A])
        if minute < 8:
            recorder.ok(60 * minute + 1, [B], account="other")
    page = make(2_400)
    assert [account["name"] for account in page["accounts"]] == ["other", "main"]
    assert page["verdict"] == (
        "1 of 2 accounts is not recording: other, since 12:07, the exporter was not running."
    )
    assert [each[0] for each in account_of(page, "other")["lists"]] == ["b"]
    assert [each["name"] for each in make(200, account_names=["other"])["accounts"]] == ["other"]


def test_the_verdict_counts_silent_accounts_and_names_three(recorder: Any, make: Make) -> None:
    for number in range(5):
        recorder.ok(60 * number, [A], account=f"desk-{number}")
    recorder.ok(100_000, [A])
    verdict = make(100_000)["verdict"]
    assert verdict == (
        "5 of 6 accounts are not recording: desk-0, desk-1, desk-2 and 2 more, the first since"
        " 2026-03-01 12:00, the exporter was not running."
    )


def test_the_report_says_since_when_polls_are_kept(recorder: Any, make: Make) -> None:
    for number in range(20):
        recorder.ok(1000 * number, [A], interval=1000)
    with recorder.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM polls WHERE id <= 10")
    main = account_of(make(19_100, intervals={"main": 1000.0}))
    assert main["kept_from"] == pytest.approx(recorder.at(10_000).timestamp(), abs=1)
    assert main["observed"] == 1.0


def test_events_and_stream_coverage_are_shown(recorder: Any, make: Make) -> None:
    for minute in range(10):
        recorder.ok(60 * minute, [A_OFF] if minute < 5 else [A])
    with recorder.database.transaction() as connection:
        connection.execute(
            stream_coverage.insert(),
            [
                {"account": "main", "started_at": recorder.at(start), "ended_at": recorder.at(end)}
                | {"events": 1, "gap_started_at": gap, "gap_cause": cause, "is_latest": latest}
                for start, end, gap, cause, latest in (
                    (0, 200, None, None, False),
                    (260, 540, recorder.at(200), "disconnected", True),
                )
            ],
        )
        # Polls see the first trigger too; the second group is deleted before the next poll.
        for second, group, kind in (
            (299.5, "a", "triggered"),
            (400, "brief", "created"),
            (401.25, "brief", "triggered"),
            (403, "brief", "deleted"),
        ):
            at = recorder.at(second).replace(microsecond=500_000)
            connection.execute(
                order_group_events.insert(),
                {"account": "main", "order_group_id": group, "occurred_at": at, "event_at": at}
                | {"identity": kind, "event_type": kind, "received_at": at},
            )
    page = make(560)
    main = account_of(page)
    assert page["verdict"] == "main is recording, polls and events."
    assert [each[2] for each in main["by_stream"]["segments"]] == ["disconnected"]
    assert main["heard"] == pytest.approx(1 - 60 / 560, abs=0.01)
    assert (main["triggers"], main["changes"]) == (2, 1)
    assert sum(told for _, told, _ in main["triggers_over_time"]) == 2
    lists = {each[0]: each for each in main["lists"]}
    assert main["all_groups"] == 2
    kinds = [main["kinds"][kind][0] for kind in lists["brief"][4][1::2]]
    assert kinds == ["created", "triggered", "deleted"]
    at, lasted, told = lists["brief"][5]
    exact = recorder.at(401.25).replace(microsecond=500_000).timestamp()
    assert at == round((exact - page["since"]) * 1000)
    assert (round(lasted, -3), told) == (2_000, 1)
    silent = make(2_000, intervals={"main": 10_000.0})
    assert silent["verdict"] == (
        "main is recorded by polls alone, since 12:09, no exporter was listening."
    )


def test_triggers_match_the_view(database_url: str) -> None:
    quiet = Sample(name="quiet", seed=2, groups=40, events=9, stream_gaps=None)
    write_samples(database_url, [Sample(groups=40, events=9), quiet])
    span = spans.cut(UNTIL - timedelta(hours=72), UNTIL, sharing=1, interval=60)
    view = views.order_group_triggers
    asked = select(
        view.c.account, view.c.order_group_id, view.c.triggered_at, view.c.ended_at, view.c.evidence
    )
    with read_only_transaction(database_url) as connection:
        rows = connection.execute(asked).all()
        found: list[Any] = []
        brief: list[Any] = []
        for account in ("main", "quiet"):
            named = groups_with_events(connection, account)
            tally = tally_of(connection, account, span, named)
            triggers = triggers_of(connection, account, span, tally, named)
            ids = list({*triggers.weighed, *triggers.last})
            for last_only, into in ((False, found), (True, brief)):
                timelines = timelines_of(
                    connection, account, span, triggers, ids, last_only=last_only
                )
                into += [
                    (account, group, each.at, each.ended_at, "event" if each.told else "flag")
                    for group, shown in timelines.items()
                    for each in shown
                ]
            of_account = [row for row in rows if row.account == account]
            assert triggers.counts == Counter(row.order_group_id for row in of_account)
            assert sum(map(sum, (each[1:] for each in triggers.by_part))) == len(of_account)
    latest = {each[:2]: each for each in sorted(found, key=lambda each: each[2])}
    assert sorted(brief, key=str) == sorted(latest.values(), key=str)
    assert {row.evidence for row in rows} == {"event", "flag"}
    assert sorted(found, key=str) == sorted(map(tuple, rows), key=str)
    assert len(found) > 50


def test_a_trigger_that_only_the_flag_shows_counts(recorder: Any, make: Make) -> None:
    recorder.ok(0, [A_OFF])
    recorder.ok(60, [A])
    recorder.ok(120, [A_OFF])
    main = account_of(make(130))
    assert main["triggers"] == 1
    assert [each[1:] for each in main["triggers_over_time"]] == [[0, 1]]
    assert main["lists"][0][5][1:] == [60_000, 0]


def test_hostile_names_cannot_end_the_script(recorder: Any, tmp_path: Path, make: Make) -> None:
    recorder.ok(0, [A, HOSTILE], account="<b>&amp;</b>")
    page = make(10)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("</script>") == 2
    assert "\u2028" not in text
    shown = account_of(page, "<b>&amp;</b>")
    assert HOSTILE.id in {each[0] for each in shown["lists"]}


def test_without_a_database_the_old_report_stays(tmp_path: Path) -> None:
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
def test_a_hundred_thousand_snapshots_make_a_small_page(  # pytest passes arguments by name
    sqlite_url: str, tmp_path: Path, names: int, groups: int, states: int, shown: int
) -> None:
    end = START + timedelta(days=100)
    accounts_ = [f"account-{number:03}" for number in range(names)]
    fill(sqlite_url, accounts_, groups, states, end)
    path = tmp_path / "report.html"
    done = report(sqlite_url, path, intervals=dict.fromkeys(accounts_, 60.0), now=end)
    assert path.stat().st_size < 1_500_000
    assert (done.accounts, done.accounts_shown, done.groups) == (names, names, names * groups)
    assert done.shown >= shown
    lists = [account["lists"] for account in data_of(path)["accounts"]]
    assert sum(map(len, lists)) == done.shown
    assert min(map(len, lists)) >= min(groups, 5)
    assert all(each[0][1] == states - 1 for each in lists)


def test_more_accounts_than_a_page_holds_are_left_out_and_counted(
    sqlite_url: str, tmp_path: Path
) -> None:
    end = START + timedelta(days=2)
    names = [f"{number:03}-{random.Random(number).randbytes(7_000).hex()}" for number in range(120)]
    fill(sqlite_url, names, 1, 1, end)
    path = tmp_path / "report.html"
    done = report(sqlite_url, path, intervals={}, now=end)
    assert path.stat().st_size < 1_500_000
    assert done.accounts == 120
    page = data_of(path)
    assert 0 < done.accounts_shown == len(page["accounts"]) < page["count"] == 120


def fill(url: str, names: list[str], groups: int, states: int, end: datetime) -> None:
    """Record `groups` groups for each account, each with `states` states, all different."""
    instants = [to_text(START + (end - START) / states * number) for number in range(states)]
    ends = [*instants[1:], None]
    rows = (
        (
            name,
            # The ids have no order or repetition, like those of the exchange.
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


def test_the_command_reports_what_it_wrote(
    sqlite_recorder: Any, write_config: Any, run_cli: Any, tmp_path: Path
) -> None:
    write_config(base_url="http://127.0.0.1:9/trade-api/v2")
    sqlite_recorder.ok(0, [A, B])
    done = run_cli("report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote report.html: 2026-03-01T11:59:59Z to ")
    assert done.stdout.endswith("accounts: 1, order groups: 2.\n")
    assert account_of(data_of(tmp_path / "report.html"))["all_groups"] == 2
    wrong = run_cli("report", "--since", "2026-03-02", "--until", "2026-03-01T00:00:00Z")
    assert wrong.returncode == 2
    assert "--since must be before" in wrong.stderr
    nowhere = run_cli("report", "-o", "no/such/directory/report.html")
    assert nowhere.returncode == 74
    assert "Traceback" not in nowhere.stderr
