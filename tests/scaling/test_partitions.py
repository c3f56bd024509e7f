"""Test that statements about one account use only that account's partitions."""

from typing import TYPE_CHECKING, get_args

from msgspec.structs import replace

from exporter.history.stream_store import StreamStore
from exporter.model import StreamBatch
from exporter.reading.export import export
from exporter.reading.queries import What
from tests.history.test_statements import ALL_ACCOUNTS, go_through_polls
from tests.history.test_stream_store import Stream
from tests.support.partitions import COUNT, Planned, recorded_plans

if TYPE_CHECKING:
    from pathlib import Path

    from tests.history.conftest import History

EVERYTHING: tuple[What, ...] = get_args(What)
OTHERS = 6 * COUNT  # accounts, enough for rows in every partition


def fill_all(history: "History") -> None:
    """Give every partition an account with rows in each table."""
    store = StreamStore(history.database)
    for number in range(OTHERS):
        name = f"other {number}"
        head = history.store.claim(name, now=history.at(0), lease=1.0)
        history.write(replace(history.poll(0.1, history.group("a")), account=name), head)
        batch = StreamBatch(
            account=name,
            own_groups_only=False,
            since=history.at(0),
            until=history.at(1),
            events=(Stream(history).event(0.2),),
        )
        store.write(batch)


def go_through_events(history: "History") -> None:
    """Write every kind of batch that a connection can produce."""
    stream = Stream(history)
    stream.begin(1000)
    # These extend a first stretch, with one statement or with several.
    stream.hear(1000, 1001)
    stream.hear(1000, 1002, stream.event(1001.5))
    stream.hear(1000, 1003, stream.event(1002.5, event_at=None))
    stream.hear(1000, 1004, cause="disconnected")
    stream.hear(None, 1005, cause="unreachable")
    # Another stretch follows a gap; then one comes between the two, and one joins them.
    stream.hear(1020, 1021, stream.event(1020.5))
    stream.hear(1010, 1011)
    stream.hear(1003, 1022, stream.event(1003.5))
    # No daemon can fill this gap.
    stream.hear(1000, 1023, cause="not_kept")
    stream.hear(1030, 1031)
    stream.hear(1000, 1032)
    # The clock was ahead, and is then corrected.
    stream.hear(2000, 2010)
    stream.begin(1033)
    # A subaccount hears of its own groups, of others, and of some that only a poll can tell apart.
    stream.hear(1030, 1040, stream.event(1033, "created", "new"), own_groups_only=True)
    history.observe(1041, history.group("new"))
    stream.hear(1030, 1050, stream.event(1042, "created", "foreign"), own_groups_only=True)
    history.observe(1055, history.group("new"))
    stream.hear(1030, 1060, stream.event(1056, "triggered", "foreign"), own_groups_only=True)
    stream.hear(1030, 1062, stream.event(1061, "deleted", "brief"), own_groups_only=True)
    history.observe(1070, history.group("new"))
    history.observe(1080, history.group("new"))
    stream.hear(1030, 1090, own_groups_only=True)


def read(history: "History", directory: "Path", account_names: list[str]) -> None:
    """Run every export, for the named accounts or, if there are none, for all."""
    url = history.database.url.render_as_string(hide_password=False)
    for what in EVERYTHING:
        export(
            url,
            what,
            as_of=None,
            since=None,
            until=None,
            account_names=account_names,
            group_ids=[],
            file_format="csv",
            output=directory / f"{what}.csv",
        )


def of_accounts(seen: list[Planned]) -> list[Planned]:
    """Return the statements that use partitions, except those about all accounts."""
    return [each for each in seen if each.partitions and not ALL_ACCOUNTS.match(each.statement)]


def test_each_write_uses_one_partition(history: "History") -> None:
    fill_all(history)
    with recorded_plans() as seen:
        go_through_polls(history)
        go_through_events(history)
    looked = of_accounts(seen)
    assert len({each.statement for each in looked}) > 40
    # Pruning visits every account, so partitions differ between statements, but not within one.
    assert [each for each in looked if len(each.numbers) > 1] == []
    touched = {table for each in looked for table in each.partitions}
    assert touched >= {
        "accounts", "coverage", "gap_outcomes", "order_group_snapshots", "polls",
        "order_group_events", "stream_coverage", "undecided_events", "groups_of_others",
    }  # fmt: skip


def test_each_query_of_an_account_reads_one_partition(history: "History", tmp_path: "Path") -> None:
    fill_all(history)
    go_through_polls(history)
    go_through_events(history)
    with recorded_plans() as seen:
        read(history, tmp_path, ["main"])
    looked = of_accounts(seen)
    assert len(looked) >= len(EVERYTHING)
    assert [each for each in looked if len(each.numbers) > 1] == []
    # A query of all accounts reads all partitions.
    with recorded_plans() as seen:
        read(history, tmp_path, [])
    assert [each for each in seen if len(each.numbers) == COUNT]
