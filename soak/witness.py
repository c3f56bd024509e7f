"""An exchange that remembers what it served, and the checks of what was recorded.

The checks read the database with plain SQL and without the exporter's code. They return a sentence
for each fault.
"""

import json
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from exporter.demo.answers import Answer, Request
from exporter.demo.exchange import Exchange
from exporter.demo.groups import Groups

State = tuple[bool, Decimal | None, str]
"""The state of an order group: auto-cancel, limit, and its unknown fields as JSON."""


@dataclass(frozen=True)
class Served:
    """One valid response of the exchange: its time, by this machine's clock, and its groups."""

    at: datetime
    groups: Mapping[str, State]


class Witness(Exchange):
    """An exchange that may change before each response, and remembers all responses.

    Args:
        seed: the seed of the random changes.
        churn: the probability of a change before each response.
    """

    def __init__(self, *, seed: int = 0, churn: float = 0.6) -> None:
        super().__init__()
        self.churn = churn
        self.served: defaultdict[str, list[Served]] = defaultdict(list)
        self._random = random.Random(seed)
        self._serial = 0
        self._gone: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def _true_answer(self, groups: Groups, request: Request) -> Answer:
        key = request.key_id or ""
        with self._changed:
            left_out = self._maybe_change(key, groups)
            answer = Answer(body=groups.body(without=left_out))
            states = {
                group["id"]: _state(group) for group in groups.listing() if group["id"] != left_out
            }
            self.served[key].append(Served(datetime.now(UTC), states))
        return answer

    def _maybe_change(self, key: str, groups: Groups) -> str | None:
        """Perhaps change the groups; return the id of a group to leave out of this response."""
        if self._random.random() >= self.churn:
            return None
        present: list[str] = [group["id"] for group in groups.listing()]
        self._serial += 1
        what = self._random.choice(["create", "change", "change", "delete", "return", "blink"])
        if what == "return" and self._gone[key]:
            back = self._gone[key].pop(0)
            if self._random.random() < 0.5:
                back["contracts_limit_fp"] = f"{self._serial}.00"
            groups.replace([*groups.listing(), back])
        elif what == "create" or len(present) < 4:
            groups.create(
                f"group-{key[-4:]}-{self._serial}",
                contracts_limit=f"{self._serial}.00",
                note="\x00",
            )
        elif what == "change" or len(present) < 8:
            groups.change(self._random.choice(present), contracts_limit_fp=f"{self._serial}.50")
        elif what == "delete":
            chosen = self._random.choice(present)
            self._gone[key] += [each for each in groups.listing() if each["id"] == chosen]
            groups.delete(chosen)
        else:
            return self._random.choice(present)
        return None


def _state(group: Mapping[str, Any]) -> State:
    rest = {
        name: value
        for name, value in group.items()
        if name not in {"id", "is_auto_cancel_enabled", "contracts_limit_fp", "exchange_index"}
    }
    limit = group.get("contracts_limit_fp")
    return (
        group["is_auto_cancel_enabled"],
        None if limit is None else Decimal(limit),
        json.dumps(rest, sort_keys=True) if rest else "",
    )


@dataclass(frozen=True)
class Recorded:
    """The tables of one database, as rows by column name, instants as datetimes in UTC."""

    polls: list[dict[str, Any]]
    snapshots: list[dict[str, Any]]
    accounts: list[dict[str, Any]]
    coverage: list[dict[str, Any]]
    integrity: str


_INSTANTS = {
    "started_at", "finished_at", "observed_at", "valid_from", "valid_to", "missing_since",
    "last_seen_at", "ended_at", "gap_started_at", "not_before", "polled_at", "claimed_until",
    "cooldown_until",
}  # fmt: skip


def record_of(url: str) -> Recorded:
    """Read all tables as of one instant."""
    with _reader(url) as rows:
        return Recorded(
            polls=rows("SELECT * FROM polls ORDER BY id"),
            snapshots=rows("SELECT * FROM order_group_snapshots ORDER BY 1, 2, 3"),
            accounts=rows("SELECT * FROM accounts ORDER BY 1"),
            coverage=rows("SELECT * FROM coverage ORDER BY 1, 2"),
            integrity=_integrity(url, rows),
        )


def _integrity(url: str, rows: Any) -> str:
    if not url.startswith("sqlite"):
        return "ok"
    return str(rows("PRAGMA integrity_check")[0]["integrity_check"])


@contextmanager
def _reader(url: str) -> Iterator[Any]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(Path(parsed.database or ""), timeout=60)) as connection:
            connection.row_factory = sqlite3.Row
            connection.isolation_level = None
            connection.execute("BEGIN")
            yield lambda sql: [_typed(dict(row)) for row in connection.execute(sql)]
        return
    libpq = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(libpq, row_factory=psycopg.rows.dict_row) as connection_:
        connection_.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield lambda sql: [_typed(row) for row in connection_.execute(sql)]


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    for name in _INSTANTS & row.keys():
        value = row[name]
        if isinstance(value, str):
            row[name] = datetime.fromisoformat(value)
        elif value is not None:
            row[name] = value.astimezone(UTC)
    if "is_auto_cancel_enabled" in row:
        extra = row["extra"]
        row["state"] = (
            bool(row["is_auto_cancel_enabled"]),
            None if row["contracts_limit"] is None else Decimal(row["contracts_limit"]),
            json.dumps(json.loads(extra) if isinstance(extra, str) else extra, sort_keys=True)
            if extra
            else "",
        )
    return row


def broken_promises(recorded: Recorded) -> list[str]:
    """Return the faults within the tables: half-written polls, two open snapshots and so on."""
    faults = [] if recorded.integrity == "ok" else [f"integrity check: {recorded.integrity}"]
    for account in sorted({poll["account"] for poll in recorded.polls}):
        part = _Part(
            [poll for poll in recorded.polls if poll["account"] == account],
            [each for each in recorded.snapshots if each["account"] == account],
            next((each for each in recorded.accounts if each["account"] == account), {}),
            [each for each in recorded.coverage if each["account"] == account],
        )
        checks = (part.polls_wrong, part.snapshots_wrong, part.counts_wrong, part.head_wrong,
                  part.coverage_wrong)  # fmt: skip
        faults += [f"{account}: {fault}" for check in checks for fault in check()]
    return faults


class _Part:
    """The rows of one account, in the order of their keys."""

    def __init__(
        self,
        polls: Sequence[Mapping[str, Any]],
        snapshots: Sequence[Mapping[str, Any]],
        head: Mapping[str, Any],
        coverage: Sequence[Mapping[str, Any]],
    ) -> None:
        self._polls = polls
        self._snapshots = snapshots
        self._head = head
        self._coverage = coverage
        self._good = [poll for poll in polls if poll["outcome"] == "ok"]
        self._times = [poll["observed_at"] for poll in self._good]
        self._groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for snapshot in snapshots:
            self._groups[snapshot["order_group_id"]].append(snapshot)

    def polls_wrong(self) -> Iterator[str]:
        if self._times != sorted(set(self._times)):
            yield "observed_at does not increase strictly"
        for poll in self._polls:
            if poll["outcome"] != "ok" and (poll["observed_at"] or poll["added"] is not None):
                yield f"poll {poll['id']} is {poll['outcome']} but has an observation"
        keys = Counter((poll["started_at"], poll["finished_at"]) for poll in self._polls)
        if max(keys.values(), default=1) > 1:
            yield "a poll is recorded twice"

    def snapshots_wrong(self) -> Iterator[str]:
        good = {poll["id"]: poll for poll in self._good}
        for each in self._snapshots:
            opener = good.get(each["first_poll_id"])
            if opener is None or opener["observed_at"] != each["valid_from"]:
                yield f"a snapshot without its first poll: {each}"
            if each["last_poll_id"] is not None and each["last_poll_id"] not in good:
                yield f"a snapshot without its last poll: {each}"
            if (each["valid_to"] is None) != (each["end_reason"] is None):
                yield f"a snapshot half closed: {each}"
        for name, states in self._groups.items():
            if sum(state["valid_to"] is None for state in states) > 1:
                yield f"two open snapshots of {name}"
            for before, state in pairwise(states):
                if before["valid_to"] is None or before["valid_to"] > state["valid_from"]:
                    yield f"overlapping snapshots of {name}"

    def counts_wrong(self) -> Iterator[str]:
        added: Counter[int] = Counter()
        changed: Counter[int] = Counter()
        for states in self._groups.values():
            for before, state in pairwise([None, *states]):
                assert state is not None
                follows = (
                    before is not None
                    and before["end_reason"] == "changed"
                    and before["valid_to"] == state["valid_from"]
                )
                (changed if follows else added)[state["first_poll_id"]] += 1
        removed = Counter(
            each["valid_to"] for each in self._snapshots if each["end_reason"] == "removed"
        )
        # Two polls confirm a removal, which is dated to the first of them.
        for before, poll in pairwise([None, *self._good]):
            assert poll is not None
            number = poll["id"]
            gone = removed[before["observed_at"]] if before is not None else 0
            says = (poll["added"], poll["changed"], poll["removed"])
            found = (added[number], changed[number], gone)
            if says != found:
                yield f"poll {number} says (added, changed, removed) = {says}, not {found}"

    def head_wrong(self) -> Iterator[str]:
        if not self._good:
            return
        latest = self._good[-1]
        says = [self._head.get(name) for name in ("last_poll_id", "observed_at", "version")]
        if says != [latest["id"], latest["observed_at"], len(self._good)]:
            yield f"the head says {says}, the last of {len(self._good)} is {latest}"
        if self._head.get("group_count") != latest["group_count"]:
            yield "the head's group_count is not its poll's"

    def coverage_wrong(self) -> Iterator[str]:
        for stretch in self._coverage:
            start, end = stretch["started_at"], stretch["ended_at"]
            inside = [at for at in self._times if start <= at <= end]
            if not inside or (inside[0], inside[-1], len(inside)) != (start, end, stretch["polls"]):
                yield f"coverage does not fit its polls: {stretch}"
        if sum(stretch["polls"] for stretch in self._coverage) != len(self._good):
            yield f"coverage does not count {len(self._good)} polls"


def differences(
    recorded: Recorded, account: str, served: Sequence[Served], *, complete: bool
) -> list[str]:
    """Return how the recorded history differs from what the exchange served.

    A poll may have seen any response that was served while it ran, so two overlapping polls may
    have seen two responses in either order. The history is right if some assignment of responses
    to polls, in which successive polls have different responses, explains all of it.

    Args:
        recorded: the tables of the database.
        account: the account's name.
        served: what the exchange served to the account, in order.
        complete: whether every response must have been recorded. Otherwise some may be missing,
            because their exporter was killed, but the recorded ones must be right.
    """
    faults = []
    good = [
        poll for poll in recorded.polls if poll["account"] == account and poll["outcome"] == "ok"
    ]
    fitting = []
    for poll in good:
        fits = [each for each in served if poll["started_at"] <= each.at <= poll["finished_at"]]
        if not fits:
            faults.append(f"{account}: poll {poll['id']} saw nothing that was served: {poll}")
            return faults
        fitting.append(fits)
    if complete and len(good) != len(served):
        seen = {id(each) for fits in fitting for each in fits}
        missing = [str(each.at) for each in served if id(each) not in seen]
        faults.append(
            f"{account}: {len(served)} responses served, {len(good)} recorded;"
            f" missing: {missing[:5]}"
        )
    snapshots = [each for each in recorded.snapshots if each["account"] == account]
    found = [_recorded_at(snapshots, poll["observed_at"]) for poll in good]
    for position, wrong in _wrong(fitting, found):
        poll = good[position]
        faults.append(
            f"{account}: as of {poll['observed_at']} (poll {poll['id']}), found and served: {wrong}"
        )
    return faults


_States = dict[str, State]


def _recorded_at(snapshots: Sequence[Mapping[str, Any]], at: datetime) -> _States:
    return {
        each["order_group_id"]: each["state"]
        for each in snapshots
        if each["valid_from"] <= at and (each["valid_to"] is None or each["valid_to"] > at)
    }


def _wrong(
    fitting: Sequence[Sequence[Served]], found: Sequence[_States]
) -> Iterator[tuple[int, dict[str, tuple[State | None, State | None]]]]:
    """Yield the position and the differences of each poll that no assignment explains.

    The function keeps every assignment of responses that fits the polls so far. If none fits, it
    yields how the nearest one differs, and starts again with all assignments.
    """
    # An assignment is identified by the responses of the previous poll and of this one.
    choices: list[tuple[Served | None, Served]] = (
        [(None, each) for each in fitting[0]] if found else []
    )
    for position, states in enumerate(found):
        following: Sequence[Served | None] = (
            fitting[position + 1] if position + 1 < len(found) else [None]
        )
        triples = [
            (before, this, after)
            for before, this in choices
            for after in following
            if after is not this
        ]
        right = [
            (this, after)
            for before, this, after in triples
            if _expected(before, this, after) == states
        ]
        if not right:
            differing = [_differing(states, _expected(*triple)) for triple in triples]
            yield position, min(differing, key=len, default={})
            right = [(this, after) for this in fitting[position] for after in following]
        choices = list(
            {
                (id(this), id(after)): (this, after) for this, after in right if after is not None
            }.values()
        )


def _differing(found: _States, expected: _States) -> dict[str, tuple[State | None, State | None]]:
    return {
        name: (found.get(name), expected.get(name))
        for name in found.keys() | expected.keys()
        if found.get(name) != expected.get(name)
    }


def _expected(before: Served | None, this: Served, after: Served | None) -> _States:
    """Return the groups as of one observation; two polls that miss a group confirm its removal."""
    states = dict(this.groups)
    for name, state in () if before is None else before.groups.items():
        # A group missed for the first time is gone only if the next poll misses it too.
        if name not in states and (after is None or name in after.groups):
            states[name] = state
    return states


def wait_until(what: Any, *, seconds: float = 60.0, every: float = 0.05) -> Any:
    """Wait for a condition, and return its value.

    Raises:
        AssertionError: it did not come true in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = what()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s: {what}")
