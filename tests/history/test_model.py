"""A stateful model of polls, faults and restarts, which both databases must agree with.

`Promise` computes what the history must contain from nothing but the list of observations, straight
from the definitions and without regard to cost. `Exporters` runs two exporters through everything
that may happen to them. After each step, every table and view must equal what the promise computes.
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
ASKING = timedelta(
    milliseconds=2
)  # the time from the claim to the observation; the poll starts halfway
RECORDED = ("outcome", "group_count", "added", "changed", "removed")  # columns of polls
FIELDS = ("is_auto_cancel_enabled", "contracts_limit", "exchange_index", "extra")


@dataclass(frozen=True)
class Seen:
    """A successful poll that was written, with what it saw and its settings."""

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
    end: int | None  # the observation that saw another state; None while open
    before: OrderGroup | None  # the state that this one replaced
    removed: bool


class Promise:
    """What the history must contain, computed from the definitions."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        # Each failed poll has the number of observations that were in the database before it.
        self.failed: list[tuple[int, Poll]] = []
        self.written: list[tuple[Poll, WriteResult, datetime | None]] = []
        # The cause of the gap before the observation with this index, if late polls changed it.
        self.explained: dict[int, str] = {}
        self.refused = 0  # consecutive refused polls

    # These methods compute stretches and gaps.

    def last(self) -> Seen | None:
        return self.seen[-1] if self.seen else None

    def extends(self, before: Seen, after: Seen) -> bool:
        """Return whether two successive observations are at most 2.5 intervals apart."""
        return after.at - before.at <= timedelta(seconds=2.5 * after.interval)

    def cause(self, index: int) -> str:
        """Return the cause of the gap before the observation with this index.

        It is the most frequent outcome of the polls that failed since the previous observation and
        were in the database when the gap ended; among equally frequent ones, the latest. Polls that
        are written later may change it.
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
        """Return the start, the end and the number of polls of each stretch of coverage."""
        stretches: list[list[Seen]] = []
        for seen in self.seen:
            if stretches and self.extends(stretches[-1][-1], seen):
                stretches[-1].append(seen)
            else:
                stretches.append([seen])
        return [(some[0].at, some[-1].at, len(some)) for some in stretches]

    # These methods compute the states of groups.

    def in_force(self, group_id: str) -> list[OrderGroup | None]:
        """Return a group's state from each observation to the next; None where it was absent.

        An observation that sees the group gives its state. A run of observations that miss the
        group means that it was absent from the first of them on, if at any of them the run was as
        long as its `confirm_removal`. Otherwise the group kept its previous state.
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
            previous = states[-1] if states else None
            states += [None if removed else previous] * len(indexes)
        return states

    def segments(self) -> Iterator[Segment]:
        """Yield every state of every group."""
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
        """Return the groups at an instant, or why they were not observed."""
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

    # These methods record polls.

    def fail(self, poll: Poll) -> WriteResult:
        last = self.last()
        if last is None or last.at < poll.started_at:  # otherwise a later observation exists
            self.failed.append((len(self.seen), poll))
            self.refused = self.refused + 1 if poll.outcome == "unauthorized" else 0
            return self.record(poll, WriteResult(outcome=poll.outcome))
        return self.explain(poll, self.record(poll, WriteResult(outcome=poll.outcome)))

    def supersede(self, poll: Poll) -> WriteResult:
        return self.explain(poll, self.record(poll, WriteResult(outcome="superseded")))

    def explain(self, late: Poll, written: WriteResult) -> WriteResult:
        """Count a late poll for the cause of the gap in which it started, if it lies in one."""
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
        # If no poll inside has the current cause, its polls were pruned, or dated by a clock that
        # has been set since; the cause then stays.
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
        """Forget the polls that started before an instant, but nothing that they recorded.

        The latest poll and the latest observation are kept. While a removal is unconfirmed, so is
        every observation since the first that missed the group.

        Returns:
            The number of forgotten polls.
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
    """Return a group's columns as the database returns them."""
    fields = {name: getattr(group, name, None) for name in FIELDS}
    limit = fields["contracts_limit"]
    return fields | {"contracts_limit": None if limit is None else Decimal(limit)}


class Expected:
    """The rows that the tables and views must have; each method is named after its table or view.

    Args:
        promise: what happened.
        ids: the ids of successful polls, pruned or not, by when the polls finished.
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

# The groups that the exchange has next; None if they stay the same. Most come from a short list, so
# that groups often disappear and return.
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
    """A poll whose request was made, but whose result may not be in the database yet."""

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

    # These rules change the world around the exporters.

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
        """Change the exchange's groups, without a poll."""
        if sight is not None:
            self.groups = {
                group_id: OrderGroup(group_id, **state) for group_id, state in sight.items()
            }

    # These rules make the exporters act.

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
        """Poll and write several times, which is the normal case."""
        for sight in seen:
            self.change(sight)
            self._write(self._ask(owner, reordered=reordered), interval, confirm_removal)

    @precondition(lambda self: self.groups)
    @rule(owner=owners, times=st.integers(2, 3), prune=st.booleans())
    def miss(self, owner: str, times: int, prune: bool) -> None:
        """Let each response lack one more group, without confirming a removal; then maybe prune."""
        self._write(self._ask(owner), interval=60.0, confirm_removal=4)
        for _ in range(times):
            self.groups = dict(list(self.groups.items())[1:])
            self._write(self._ask(owner), interval=60.0, confirm_removal=4)
        if prune:
            self._prune(self.now)

    @precondition(lambda self: self.promise.seen)
    @rule(owner=owners, interval=intervals, more=st.sampled_from([0, 1]))
    def poll_after_2_5_intervals(self, owner: str, interval: float, more: int) -> None:
        """Poll at the last instant that extends coverage, or at the first that does not."""
        observed_at = self.promise.seen[-1].at + timedelta(seconds=2.5 * interval)
        self.now = observed_at + more * MICROSECOND - ASKING
        self._write(self._ask(owner), interval, confirm_removal=2)

    @rule(owner=owners, outcome=failures)
    def fail(self, owner: str, outcome: Outcome) -> None:
        self._write(self._ask(owner, outcome), interval=60.0, confirm_removal=2)

    @rule(owner=owners, outcome=st.none() | failures)
    def ask(self, owner: str, outcome: Outcome | None) -> None:
        """Send a request, and do not write its result yet."""
        self.asked.append(self._ask(owner, outcome or "ok"))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), interval=intervals, confirm_removal=confirmations)
    def write_late(self, data: st.DataObject, interval: float, confirm_removal: int) -> None:
        """Write the result of an earlier request, with the head that was read before it."""
        asked = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        self._write(asked, interval, confirm_removal)

    @precondition(lambda self: self.asked)
    @rule()
    def lose_database(self) -> None:
        """Lose the database before the result of a request is written, and spool the result."""
        self.spool.append(self.asked.pop(0))

    @rule(outcome=st.none() | failures)
    def poll_without_database(self, outcome: Outcome | None) -> None:
        self.spool.append(self._ask(None, outcome or "ok"))

    @precondition(lambda self: self.spool)
    @rule(interval=intervals, confirm_removal=confirmations, forget=st.booleans())
    def drain(self, interval: float, confirm_removal: int, forget: bool) -> None:
        """Write the spooled polls in order; without `forget`, a later drain writes them again."""
        for asked in self.spool:
            self._write(dataclasses.replace(asked, head=None), interval, confirm_removal)
        if forget:
            self.spool.clear()

    @precondition(lambda self: self.promise.written)
    @rule(older_than=st.sampled_from([-1000.0, 0.0, 30.0, 200.0]))
    def forget(self, older_than: float) -> None:
        """Prune old polls, which must not change any other table or view."""
        self._prune(self.now - timedelta(seconds=older_than))

    def _prune(self, before: datetime) -> None:
        # The comparison also notes the ids of the polls that are about to be pruned.
        self._compare()
        expected = self.promise.prune(before)
        for dry_run in (True, False):
            assert prune(self.history.database, before=before, dry_run=dry_run) == expected
        self._compare()
        self.compared = len(self.promise.written)

    @precondition(lambda self: self.promise.written)
    @rule(data=st.data())
    def write_again(self, data: st.DataObject) -> None:
        """Write a poll again, as after a commit that succeeded although the connection was lost."""
        poll, written, _ = data.draw(st.sampled_from(self.promise.written))
        again = self.stores["first"].write(poll, head=None, interval=10.0, confirm_removal=1)
        assert again == replace(written, missing=0)  # the number of missing groups is not recorded

    def _ask(self, owner: str | None, outcome: Outcome = "ok", *, reordered: bool = False) -> Asked:
        """Make a poll without writing it; `owner` is None if the database is away."""
        head = None
        if owner is not None:
            # The lease has already expired, because claims only save requests; their own tests are
            # in `test_claim`.
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
            # This instant is unique, so that it identifies the poll.
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
            # Only one exporter can write each version of the head.
            overtaken = len(promise.seen) != asked.observations_before
        else:
            # Only the poll's own clock tells when its request was made.
            overtaken = last is not None and last.at >= poll.started_at
        if poll.observation.groups is None and asked.head is None:
            # The poll knows only the digest of its response, so it counts only if that is still
            # the digest of the latest observation.
            overtaken |= (
                last is None
                or last.poll.observation is None
                or last.poll.observation.digest != poll.observation.digest
                or promise.awaits_confirmation()
            )
        if overtaken:
            return promise.supersede(poll)
        return promise.observe(poll, asked.groups, interval, confirm_removal)

    # These methods compare the database with the promise.

    @invariant()
    def the_database_keeps_the_promise(self) -> None:
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
        # The rows are sorted by `finished_at`, which is unique, and not by id, because several
        # nodes do not assign ids in order.
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
        """Check what the database says about instants around the latest observations."""
        edges = [seen.at for seen in self.promise.seen[-8:]]
        for edge in edges:
            for instant in (edge - MICROSECOND, edge, edge + MICROSECOND):
                assert self._answer(instant) == self.promise.as_of(instant)

    def _answer(self, instant: datetime) -> dict[str, OrderGroup] | str:
        """Return what a reader finds with the documented query."""
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


def test_the_database_keeps_its_promise_whatever_happens(history: "History") -> None:
    run_state_machine_as_test(
        type("Here", (Exporters,), {"history": history}),
        settings=settings(
            max_examples=settings().max_examples // 2,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
