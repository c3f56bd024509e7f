"""The promise, written down a second time and held against both databases.

`Promise` says what the history must say, of nothing but the list of observations, by definition
and without regard to cost. `Exporters` makes two exporters go through whatever may happen to them;
after each step, every table and view must say what the promise says.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from sqlalchemy import delete

from exporter.errors import Outcome
from exporter.history import schema
from exporter.history.prune import prune
from exporter.history.store import Store, WriteResult
from exporter.model import Observation, OrderGroup, Poll

if TYPE_CHECKING:
    from exporter.history.head import Head
    from tests.history.conftest import History

Row = dict[str, Any]

MICROSECOND = timedelta(microseconds=1)
ASKING = timedelta(milliseconds=2)  # from the claim to the observation; the poll starts halfway
RECORDED = ("outcome", "group_count", "added", "changed", "removed")  # of a poll's result
FIELDS = ("is_auto_cancel_enabled", "contracts_limit", "exchange_index", "extra")


@dataclass(frozen=True)
class Seen:
    """A successful poll that was written: what it saw, and how it was configured."""

    at: datetime
    groups: dict[str, OrderGroup]
    poll: Poll
    interval: float
    confirm_removal: int


@dataclass(frozen=True)
class Segment:
    """One state of a group, from observation `first` to the one before `end`."""

    group: OrderGroup
    first: int
    last_seen: int
    end: int | None  # the observation that saw otherwise; None while open
    before: OrderGroup | None  # the state that this one replaced
    removed: bool


class Promise:
    """What the history must say, by definition."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        # Failed polls, with the number of observations that were in the database before them.
        self.failed: list[tuple[int, Poll]] = []
        self.written: list[tuple[Poll, WriteResult, datetime | None]] = []
        # What turned out later of the gap before the observation with this index.
        self.explained: dict[int, str] = {}
        self.refused = 0  # in a row

    # What is observed, and what lies between.

    def last(self) -> Seen | None:
        return self.seen[-1] if self.seen else None

    def extends(self, before: Seen, after: Seen) -> bool:
        """Whether nothing was lost between two observations in a row: 2.5 intervals at most."""
        return after.at - before.at <= timedelta(seconds=2.5 * after.interval)

    def cause(self, index: int) -> str:
        """Why nothing was observed before the observation with this index.

        The outcome that most polls had of those that failed since the last observation and were in
        the database when the gap ended; the latest of equals. Or what turned out later.
        """
        if index in self.explained:
            return self.explained[index]
        before = self.seen[index - 1].at
        inside = [
            poll for number, poll in self.failed if number == index and poll.started_at > before
        ]
        if not inside:
            return "not_running"
        latest = {poll.outcome: poll.started_at for poll in inside}
        polls = Counter(poll.outcome for poll in inside)
        return max(polls, key=lambda outcome: (polls[outcome], latest[outcome]))

    def gaps(self) -> list[Row]:
        return [
            {
                "account": "main",
                "gap_start": before.at,
                "gap_end": after.at,
                "seconds": (after.at - before.at).total_seconds(),
                "cause": self.cause(index),
            }
            for index, (before, after) in enumerate(pairwise(self.seen), start=1)
            if not self.extends(before, after)
        ]

    def stretches(self) -> list[tuple[datetime, datetime, int]]:
        """Where coverage starts and ends, and the polls that make it."""
        stretches: list[list[Seen]] = []
        for seen in self.seen:
            if stretches and self.extends(stretches[-1][-1], seen):
                stretches[-1].append(seen)
            else:
                stretches.append([seen])
        return [(some[0].at, some[-1].at, len(some)) for some in stretches]

    # What was there.

    def in_force(self, group_id: str) -> list[OrderGroup | None]:
        """A group's state from each observation to the next; None where it was absent.

        It is as it was seen. A run of observations that miss it means that it was absent, from the
        first of them on, if at any of them the run was as long as was to be confirmed then; else
        that it was as it had been.
        """
        states: list[OrderGroup | None] = []
        runs = groupby(range(len(self.seen)), key=lambda index: group_id in self.seen[index].groups)
        for is_there, run in runs:
            indexes = list(run)
            if is_there:
                states += [self.seen[index].groups[group_id] for index in indexes]
                continue
            removed = any(
                misses >= self.seen[index].confirm_removal
                for misses, index in enumerate(indexes, start=1)
            )
            as_it_was = states[-1] if states else None
            states += [None if removed else as_it_was] * len(indexes)
        return states

    def segments(self) -> Iterator[Segment]:
        """Every state of every group."""
        for group_id in sorted({group_id for seen in self.seen for group_id in seen.groups}):
            states = self.in_force(group_id)
            for group, run in groupby(range(len(states)), key=states.__getitem__):
                indexes = list(run)
                if group is None:
                    continue
                first, end = indexes[0], indexes[-1] + 1
                yield Segment(
                    group=group,
                    first=first,
                    last_seen=max(
                        index for index in indexes if group_id in self.seen[index].groups
                    ),
                    end=None if end == len(states) else end,
                    before=states[first - 1] if first else None,
                    removed=end < len(states) and states[end] is None,
                )

    def as_of(self, instant: datetime) -> dict[str, OrderGroup] | str:
        """The groups at an instant, or why they were not observed."""
        index = sum(seen.at <= instant for seen in self.seen) - 1
        if index < 0:
            return "not observed yet"
        if index == len(self.seen) - 1:
            if instant > self.seen[index].at:
                return "not observed since"
        elif instant > self.seen[index].at and not self.extends(*self.seen[index : index + 2]):
            return f"not observed: {self.cause(index + 1)}"
        ids = {group_id for seen in self.seen for group_id in seen.groups}
        states = {group_id: self.in_force(group_id)[index] for group_id in ids}
        return {group_id: state for group_id, state in states.items() if state is not None}

    # What a poll does.

    def fail(self, poll: Poll) -> WriteResult:
        last = self.last()
        if last is None or last.at < poll.started_at:  # else it has been observed since
            self.failed.append((len(self.seen), poll))
            self.refused = self.refused + 1 if poll.outcome == "unauthorized" else 0
            return self.record(poll, WriteResult(outcome=poll.outcome))
        return self.explain(poll, self.record(poll, WriteResult(outcome=poll.outcome)))

    def supersede(self, poll: Poll) -> WriteResult:
        return self.explain(poll, self.record(poll, WriteResult(outcome="superseded")))

    def explain(self, late: Poll, written: WriteResult) -> WriteResult:
        """Count a poll that comes after the gap in which it began has ended, if there is one."""
        index = sum(seen.at <= late.started_at for seen in self.seen)
        if not 0 < index < len(self.seen):
            return written
        before, after = self.seen[index - 1 : index + 1]
        if before.at == late.started_at or self.extends(before, after):
            return written
        inside = [
            (each.outcome, poll.started_at)
            for poll, each, _ in self.written
            if before.at < poll.started_at < after.at and each.outcome != "ok"
        ]
        polls = Counter(outcome for outcome, _ in inside)
        cause = self.cause(index)
        # Else those that made it the cause were pruned, or dated by a clock that was set since.
        if cause == "not_running" or cause in polls:
            latest = {
                outcome: max(at for other, at in inside if other == outcome) for outcome in polls
            }
            self.explained[index] = max(polls, key=lambda each: (polls[each], latest[each]))
        return written

    def observe(
        self, poll: Poll, groups: dict[str, OrderGroup], interval: float, confirm_removal: int
    ) -> WriteResult:
        assert poll.observation is not None
        last = self.last()
        at = poll.observation.observed_at
        if last is not None:
            at = max(at, last.at + MICROSECOND)
        before = self.open()
        self.seen.append(Seen(at, groups, poll, interval, confirm_removal))
        self.refused = 0
        after = self.open()
        written = WriteResult(
            outcome="ok",
            group_count=len(groups),
            added=len(after.keys() - before.keys()),
            changed=sum(after[each] != before[each] for each in after.keys() & before.keys()),
            removed=len(before.keys() - after.keys()),
            found=0 if last is not None else len(after),
            missing=len(after.keys() - groups.keys()),
        )
        return self.record(poll, written, at)

    def open(self) -> dict[str, OrderGroup]:
        return {each.group.id: each.group for each in self.segments() if each.end is None}

    def awaits_confirmation(self) -> bool:
        return bool(self.seen) and self.open().keys() != self.seen[-1].groups.keys()

    def record(self, poll: Poll, written: WriteResult, at: datetime | None = None) -> WriteResult:
        self.written.append((poll, written, at))
        return written

    def prune(self, before: datetime) -> int:
        """Forget the polls that began before an instant, and nothing that they left.

        Remembered are the latest poll, the latest observation and, while a group is missed and
        nobody knows yet whether it is gone, every observation since the first that missed it.
        """
        if not self.written:
            return 0
        latest = max(enumerate(self.written), key=lambda each: (each[1][0].started_at, each[0]))[0]
        misses = [
            self.seen[each.last_seen + 1].at
            for each in self.segments()
            if each.end is None and each.last_seen + 1 < len(self.seen)
        ]
        needed_since = min(misses, default=self.seen[-1].at if self.seen else None)
        kept = [
            each
            for index, each in enumerate(self.written)
            if each[0].started_at >= before
            or index == latest
            or (each[2] is not None and needed_since is not None and each[2] >= needed_since)
        ]
        forgotten = len(self.written) - len(kept)
        self.written = kept
        return forgotten


def _changed(group: OrderGroup | None, prefix: str) -> Row:
    return {f"{prefix}_{name}": value for name, value in _fields(group).items()}


def _fields(group: OrderGroup | None) -> Row:
    """A group's columns, as the database gives them."""
    fields = {name: getattr(group, name, None) for name in FIELDS}
    limit = fields["contracts_limit"]
    return fields | {"contracts_limit": None if limit is None else Decimal(limit)}


class Expected:
    """The tables and views that the promise comes to.

    Args:
        promise: what happened.
        ids: those of successful polls, pruned or not, by when the polls finished.
    """

    def __init__(self, promise: Promise, ids: dict[datetime, int]) -> None:
        self._promise = promise
        self._seen = promise.seen
        self._poll_ids = [ids.get(seen.poll.finished_at) for seen in self._seen]

    def order_group_snapshots(self) -> list[Row]:
        return [self._snapshot(segment) for segment in self._promise.segments()]

    def _snapshot(self, segment: Segment) -> Row:
        newest = len(self._seen) - 1
        is_open = segment.end is None
        still_seen = is_open and segment.last_seen == newest
        if is_open:
            valid_to = end_reason = None
        else:
            assert segment.end is not None
            valid_to = self._seen[segment.end].at
            end_reason = "removed" if segment.removed else "changed"
        if segment.before is not None:
            begin_reason = "changed"
        else:
            begin_reason = "appeared" if segment.first else "found"
        return {
            **self._group(segment.group),
            "valid_from": self._seen[segment.first].at,
            "begin_reason": begin_reason,
            "not_before": self._seen[segment.first - 1].at if segment.first else None,
            "missing_since": (
                self._seen[segment.last_seen + 1].at if is_open and not still_seen else None
            ),
            "last_seen_at": None if still_seen else self._seen[segment.last_seen].at,
            "valid_to": valid_to,
            "end_reason": end_reason,
            "first_poll_id": self._poll_ids[segment.first],
            "last_poll_id": None if still_seen else self._poll_ids[segment.last_seen],
        }

    def order_group_history(self) -> list[Row]:
        rows = []
        for segment in self._promise.segments():
            row = self._snapshot(segment)
            del row["begin_reason"]
            until = row["valid_to"] or self._seen[-1].at
            rows.append(
                row
                | {
                    "last_seen_at": self._seen[segment.last_seen].at,
                    "last_poll_id": self._poll_ids[segment.last_seen],
                    "duration_seconds": (until - row["valid_from"]).total_seconds(),
                }
            )
        return rows

    def order_groups_current(self) -> list[Row]:
        segments = list(self._promise.segments())
        return [
            {
                **self._group(segment.group),
                "first_seen_at": min(
                    self._seen[each.first].at
                    for each in segments
                    if each.group.id == segment.group.id
                ),
                "last_seen_at": self._seen[segment.last_seen].at,
                "last_changed_at": self._seen[segment.first].at,
                "missing_since": self._snapshot(segment)["missing_since"],
            }
            for segment in segments
            if segment.end is None
        ]

    def order_group_changes(self) -> list[Row]:
        rows = []
        for segment in self._promise.segments():
            snapshot = self._snapshot(segment)
            of = {"account": "main", "order_group_id": segment.group.id}
            rows.append(
                of
                | {
                    "changed_at": snapshot["valid_from"],
                    "not_before": snapshot["not_before"],
                    "change": "appeared" if segment.before is None else "changed",
                }
                | _changed(segment.before, "old")
                | _changed(segment.group, "new")
                | {"event_at": None}
            )
            if segment.removed:
                rows.append(
                    of
                    | {
                        "changed_at": snapshot["valid_to"],
                        "not_before": snapshot["last_seen_at"],
                        "change": "disappeared",
                    }
                    | _changed(segment.group, "old")
                    | _changed(None, "new")
                    | {"event_at": None}
                )
        return rows

    def coverage_gaps(self) -> list[Row]:
        return self._promise.gaps()

    @staticmethod
    def _group(group: OrderGroup) -> Row:
        return {
            "account": "main",
            "order_group_id": group.id,
            **_fields(group),
        }


IDS = ["a", "b", "%_'\"🦀"]
STATES: list[Row] = [
    {"is_auto_cancel_enabled": True},
    {"is_auto_cancel_enabled": False, "contracts_limit": "10.00"},
    {"is_auto_cancel_enabled": False, "exchange_index": 1, "extra": '{"x":1e400,"y":"\\u0000"}'},
]
FAILURES: list[Outcome] = ["unauthorized", "server_error", "timeout"]

# What the exchange has next; None if the same. Mostly of a few, so that blinks and returns happen.
FEW: list[dict[str, Row] | None] = [
    None,
    {"a": STATES[0]},
    {},
    {"a": STATES[1]},
    {"a": STATES[0], "b": STATES[2]},
]
sights = st.sampled_from(FEW) | st.dictionaries(st.sampled_from(IDS), st.sampled_from(STATES))
owners = st.sampled_from(["first", "second"])
intervals = st.sampled_from([10.0, 60.0])
confirmations = st.integers(1, 4)
failures = st.sampled_from(FAILURES)


@dataclass(frozen=True)
class Asked:
    """A poll that was made but is in the database no more certainly than its exporter knows."""

    poll: Poll
    groups: dict[str, OrderGroup]
    owner: str
    head: "Head | None"
    observations_before: int


class Exporters(RuleBasedStateMachine):
    """Two exporters of one account, the exchange, and a wall clock that may be wrong."""

    history: ClassVar["History"]

    def __init__(self) -> None:
        super().__init__()
        self.promise = Promise()
        self.now = self.history.at(0)
        self.groups: dict[str, OrderGroup] = {}
        self.asked: list[Asked] = []
        self.spool: list[Asked] = []
        self.number = 0
        self.compared = 0
        self.ids: dict[datetime, int] = {}
        with self.history.database.transaction() as connection:
            for table in schema.metadata.tables.values():
                connection.execute(delete(table))
        self.restart()

    # The world.

    @rule(seconds=st.sampled_from([0.001, 9.0, 61.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([-500.0, -1.0, 500.0]))
    def set_clock(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def restart(self) -> None:
        self.stores = {
            owner: Store(self.history.database, owner=owner) for owner in ("first", "second")
        }

    @rule(sight=sights)
    def change(self, sight: dict[str, Row] | None) -> None:
        """The exchange has other groups; nobody looks yet."""
        if sight is not None:
            self.groups = {
                group_id: OrderGroup(group_id, **state) for group_id, state in sight.items()
            }

    # The exporters.

    @rule(
        owner=owners,
        interval=intervals,
        confirm_removal=confirmations,
        reordered=st.booleans(),
        seen=st.lists(sights, min_size=1, max_size=6),
    )
    def poll(
        self,
        owner: str,
        interval: float,
        confirm_removal: int,
        reordered: bool,
        seen: list[dict[str, Row] | None],
    ) -> None:
        """What happens nearly always, some times."""
        for sight in seen:
            self.change(sight)
            self._write(self._ask(owner, reordered=reordered), interval, confirm_removal)

    @precondition(lambda self: self.groups)
    @rule(owner=owners, times=st.integers(2, 3), prune=st.booleans())
    def miss(self, owner: str, times: int, prune: bool) -> None:
        """Each answer lacks one group more, none of them for long enough; then prune, perhaps."""
        self._write(self._ask(owner), interval=60.0, confirm_removal=4)
        for _ in range(times):
            self.groups = dict(list(self.groups.items())[1:])
            self._write(self._ask(owner), interval=60.0, confirm_removal=4)
        if prune:
            self._prune(self.now)

    @precondition(lambda self: self.promise.seen)
    @rule(owner=owners, interval=intervals, more=st.sampled_from([0, 1]))
    def poll_after_2_5_intervals(self, owner: str, interval: float, more: int) -> None:
        """The last instant at which a poll extends coverage, or the first at which it does not."""
        observed_at = self.promise.seen[-1].at + timedelta(seconds=2.5 * interval)
        self.now = observed_at + more * MICROSECOND - ASKING
        self._write(self._ask(owner), interval, confirm_removal=2)

    @rule(owner=owners, outcome=failures)
    def fail(self, owner: str, outcome: Outcome) -> None:
        self._write(self._ask(owner, outcome), interval=60.0, confirm_removal=2)

    @rule(owner=owners, outcome=st.none() | failures)
    def ask(self, owner: str, outcome: Outcome | None) -> None:
        """Ask the exchange, and do not come to writing yet."""
        self.asked.append(self._ask(owner, outcome or "ok"))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), interval=intervals, confirm_removal=confirmations)
    def write_late(self, data: st.DataObject, interval: float, confirm_removal: int) -> None:
        """Write what was asked for, perhaps long ago, with the head of then."""
        asked = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        self._write(asked, interval, confirm_removal)

    @precondition(lambda self: self.asked)
    @rule()
    def lose_database(self) -> None:
        """The database is gone when what was asked for should be written."""
        self.spool.append(self.asked.pop(0))

    @rule(outcome=st.none() | failures)
    def poll_without_database(self, outcome: Outcome | None) -> None:
        self.spool.append(self._ask(None, outcome or "ok"))

    @precondition(lambda self: self.spool)
    @rule(interval=intervals, confirm_removal=confirmations, forget=st.booleans())
    def drain(self, interval: float, confirm_removal: int, forget: bool) -> None:
        """Write what waits, in its order; perhaps again, if killed before forgetting it."""
        for asked in self.spool:
            self._write(dataclasses.replace(asked, head=None), interval, confirm_removal)
        if forget:
            self.spool.clear()

    @precondition(lambda self: self.promise.written)
    @rule(older_than=st.sampled_from([-1000.0, 0.0, 30.0, 200.0]))
    def forget(self, older_than: float) -> None:
        """Forget old polls; every table and view but theirs says what it said."""
        self._prune(self.now - timedelta(seconds=older_than))

    def _prune(self, before: datetime) -> None:
        # For the ids of what goes now.
        self._compare()
        expected = self.promise.prune(before)
        for dry_run in (True, False):
            assert prune(self.history.database, before=before, dry_run=dry_run) == expected
        self._compare()
        self.compared = len(self.promise.written)

    @precondition(lambda self: self.promise.written)
    @rule(data=st.data())
    def write_again(self, data: st.DataObject) -> None:
        """The commit succeeded, but the connection was lost before its exporter knew."""
        poll, written, _ = data.draw(st.sampled_from(self.promise.written))
        again = self.stores["first"].write(poll, head=None, interval=10.0, confirm_removal=1)
        assert again == replace(written, missing=0)  # which nobody records

    def _ask(self, owner: str | None, outcome: Outcome = "ok", *, reordered: bool = False) -> Asked:
        """One poll up to writing; `owner` is None if the database is away."""
        head = None
        if owner is not None:
            # Claims only spare requests; that they end is for `test_head` to show.
            head = self.stores[owner].claim("main", now=self.now, lease=-10_000.0)
            assert head.refused_polls == self.promise.refused
            assert head.version == len(self.promise.seen)
        started_at = self.now + ASKING / 2
        self.now += ASKING
        self.number += 1
        ids = sorted(self.groups, reverse=reordered)
        digest = repr([self.groups[group_id] for group_id in ids])
        known = head is not None and head.digest == digest
        poll = Poll(
            account="main",
            started_at=started_at,
            # Never twice, so that the tests can tell polls by it.
            finished_at=self.now + timedelta(seconds=1, microseconds=self.number),
            outcome=outcome,
            attempts=1,
            observation=Observation(
                observed_at=self.now, digest=digest, groups=None if known else dict(self.groups)
            )
            if outcome == "ok"
            else None,
        )
        return Asked(poll, dict(self.groups), owner or "first", head, len(self.promise.seen))

    def _write(self, asked: Asked, interval: float, confirm_removal: int) -> None:
        expected = self._promised(asked, interval, confirm_removal)
        written = self.stores[asked.owner].write(
            asked.poll, head=asked.head, interval=interval, confirm_removal=confirm_removal
        )
        note(f"{asked.poll} from head {asked.head} is {written}")
        assert written == expected

    def _promised(self, asked: Asked, interval: float, confirm_removal: int) -> WriteResult:
        poll, promise = asked.poll, self.promise
        if asked.head is None:
            for before, written, _ in promise.written:
                if before == poll:
                    return replace(written, missing=0)
        if poll.observation is None:
            return promise.fail(poll)
        last = promise.last()
        if asked.head is not None:
            # Exactly one writes each step.
            overtaken = len(promise.seen) != asked.observations_before
        else:
            # Nobody knows when it asked, but from its clock.
            overtaken = last is not None and last.at >= poll.started_at
        if poll.observation.groups is None and asked.head is None:
            # It saw the answer that was the latest when it asked, and knows it by its digest only.
            overtaken |= (
                last is None
                or last.poll.observation is None
                or last.poll.observation.digest != poll.observation.digest
                or promise.awaits_confirmation()
            )
        if overtaken:
            return promise.supersede(poll)
        return promise.observe(poll, asked.groups, interval, confirm_removal)

    # The comparison.

    @invariant()
    def the_database_says_what_was_promised(self) -> None:
        if self.compared == len(self.promise.written):
            return
        self.compared = len(self.promise.written)
        self._compare()

    def _compare(self) -> None:
        said = self.history.rows_of(
            "polls",
            "coverage",
            "order_group_snapshots",
            "order_group_history",
            "order_groups_current",
            "order_group_changes",
            "coverage_gaps",
        )
        self.ids |= {
            row["finished_at"]: row["id"] for row in said["polls"] if row["outcome"] == "ok"
        }
        expected = Expected(self.promise, self.ids)
        # In the order of what no two have alike: several nodes do not hand out ids in order.
        assert sorted(self._polls(said["polls"])) == sorted(
            (poll.finished_at, poll.started_at, at, *_recorded(written))
            for poll, written, at in self.promise.written
        )
        assert [
            (row["started_at"], row["ended_at"], row["polls"]) for row in said["coverage"]
        ] == self.promise.stretches()
        for name in said.keys() - {"polls", "coverage"}:
            assert _sorted(said[name]) == _sorted(getattr(expected, name)()), name
        for row in said["order_group_history"]:
            assert {row["first_poll_id"], row["last_poll_id"]} <= set(self.ids.values())

    @staticmethod
    def _polls(rows: list[Row]) -> list[tuple[Any, ...]]:
        names = ("finished_at", "started_at", "observed_at", *RECORDED)
        return [tuple(row[name] for name in names) for row in rows]

    def teardown(self) -> None:
        """As of any instant, the database answers as promised."""
        edges = [seen.at for seen in self.promise.seen[-8:]]
        for edge in edges:
            for instant in (edge - MICROSECOND, edge, edge + MICROSECOND):
                assert self._answer(instant) == self.promise.as_of(instant)

    def _answer(self, instant: datetime) -> dict[str, OrderGroup] | str:
        """What a reader finds, by the formula of the contract."""
        covered, gaps, groups = self.history.as_of_instant(instant)
        if not covered:
            stretches = self.promise.stretches()
            if gaps:
                return f"not observed: {gaps[0]}"
            return "not observed yet" if instant < stretches[0][0] else "not observed since"
        return {group.id: group for group in groups}


def _recorded(written: WriteResult) -> list[Any]:
    return [getattr(written, name) for name in RECORDED]


def _sorted(rows: list[Row]) -> list[Row]:
    def key(row: Row) -> tuple[Any, ...]:
        instant = row.get("valid_from") or row.get("changed_at") or row.get("gap_start")
        return row.get("order_group_id", ""), str(instant), row.get("change", "")

    return sorted(rows, key=key)


def test_whatever_happens_the_database_says_what_was_observed(history: "History") -> None:
    run_state_machine_as_test(
        type("Here", (Exporters,), {"history": history}),
        settings=settings(
            max_examples=settings().max_examples // 2,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
