"""Writes sample histories directly: the rows that weeks of polls and events would have left."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from exporter.database.database import Database
from exporter.history.migrate import ensure_current
from exporter.history.schema import to_text

UNTIL = datetime(2026, 3, 20, 14, 31, 7, 250_000, tzinfo=UTC)
"""The instant at which the histories end."""

Gap = tuple[float, float, str]
"""A gap: its start and end in hours before `UNTIL`, and its cause. A gap that ends at 0 is open."""

_Stretch = tuple[datetime, datetime, datetime | None, str | None]
_State = tuple[datetime, bool, int]

_LIMITS = (25, 50, 75, 100, 250, 500, 1_000)
_STATUS = {"ok": 200, "unauthorized": 401, "server_error": 503, "rate_limited": 429}
_MESSAGES = {
    "unauthorized": "authentication_error: NOT_FOUND",
    "server_error": "service unavailable",
    "unreachable": "connection refused",
    "timeout": "no response within 20 s",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The history of one account.

    Attributes:
        name: the account's name.
        hours: how long the account has been recorded.
        interval: seconds between its polls.
        groups: how many order groups it had.
        events: about how many limit changes and triggers each group had, on average.
        gaps: the gaps in the coverage.
        stream_gaps: the gaps in the stream coverage; None if the stream was never recorded.
        seed: seeds the random history of the groups.
    """

    name: str = "main"
    hours: float = 72.0
    interval: float = 60.0
    groups: int = 24
    events: float = 4.0
    gaps: Sequence[Gap] = ()
    stream_gaps: Sequence[Gap] | None = ()
    seed: int = 7


def write_samples(url: str, samples: Iterable[Sample]) -> None:
    """Write the histories of some accounts into a new database."""
    with closing(Database(url)) as database:
        ensure_current(database, auto_migrate=True)
        for sample in samples:
            with database.transaction() as connection:
                for table, rows in _History(sample).rows.items():
                    for columns in {tuple(row): None for row in rows}:
                        names = ", ".join(columns)
                        values = ", ".join(f":{name}" for name in columns)
                        connection.execute(
                            text(f"INSERT INTO {table} ({names}) VALUES ({values})"),
                            [_stored(row) for row in rows if tuple(row) == columns],
                        )


class _History:
    """The rows of one account, by table."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.since = UNTIL - timedelta(hours=sample.hours)
        self.chance = random.Random(sample.seed)
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.stretches = self._stretches(sample.gaps, cut=min(sample.interval, 20.0))
        self._add_coverage()
        self._add_stream_coverage()
        self._add_polls()
        for number in range(sample.groups):
            self._add_group(number)

    def _add(self, table: str, **row: Any) -> None:
        self.rows[table].append({"account": self.sample.name} | row)

    def _stretches(self, gaps: Sequence[Gap], *, cut: float) -> list[_Stretch]:
        """Return the stretches between gaps, each with the start and cause of the gap before it.

        Args:
            gaps: what lies between the stretches.
            cut: seconds before `UNTIL` at which the last stretch ends, if no gap is open.
        """
        found: list[_Stretch] = []
        start, before, cause = self.since, None, None
        for begin, finish, why in sorted(gaps, reverse=True):
            gap_start = UNTIL - timedelta(hours=begin)
            found.append((start, gap_start, before, cause))
            start, before, cause = UNTIL - timedelta(hours=finish), gap_start, why
        if before is None or start < UNTIL:
            found.append((start, max(UNTIL - timedelta(seconds=cut), start), before, cause))
        return found

    def _add_coverage(self) -> None:
        for start, end, before, cause in self.stretches:
            polls = max(round((end - start).total_seconds() / self.sample.interval), 1)
            ends = {"started_at": start, "ended_at": end}
            self._add("coverage", **ends, polls=polls, gap_started_at=before, gap_cause=cause)
        stream_gaps = self.sample.stream_gaps or ()
        self._add(
            "accounts",
            version=1,
            observed_at=self.stretches[-1][1],
            failed_polls=0,
            refused_polls=0,
            group_count=self.sample.groups,
            stream_end_cause=next((why for _, end, why in stream_gaps if end == 0), None),
            stream_ended_at=UNTIL,
        )
        for _, hours, cause in self.sample.gaps:
            if hours == 0 and cause != "not_running":
                self._add("gap_outcomes", outcome=cause, polls=9, last_started_at=UNTIL)

    def _add_stream_coverage(self) -> None:
        if self.sample.stream_gaps is None:
            return
        heard = self._stretches(self.sample.stream_gaps, cut=0.0)
        for start, end, before, cause in heard:
            self._add(
                "stream_coverage",
                started_at=start,
                ended_at=end,
                events=0,
                gap_started_at=before,
                gap_cause=cause,
                is_latest=end == heard[-1][1],
            )

    def _add_polls(self) -> None:
        # Only the latest few thousand polls exist, as if the older ones had been pruned.
        interval = self.sample.interval
        count = min(int(self.sample.hours * 3600 / interval), 4_000)
        for number in range(count):
            at = UNTIL - timedelta(seconds=interval * (count - number) - 20)
            hours = (UNTIL - at).total_seconds() / 3600
            cause = next((why for begin, end, why in self.sample.gaps if end < hours < begin), "ok")
            if at < self.since or cause == "not_running":
                continue
            if cause == "ok" and self.chance.random() < 0.002:
                cause = "timeout"
            took = timedelta(seconds=self.chance.lognormvariate(4.4, 0.5) / 1000)
            self._add(
                "polls",
                started_at=at,
                finished_at=at + took,
                observed_at=at + took if cause == "ok" else None,
                outcome=cause,
                attempts=1,
                exporter_version="0.3.0",
                clock_skew_ms=round(self.chance.gauss(120, 90)) if cause == "ok" else None,
                http_status=_STATUS.get(cause),
                error_message=_MESSAGES.get(cause),
            )

    def _add_group(self, number: int) -> None:
        """Add the events and snapshots of a group: limit changes, triggers and resets."""
        chance = self.chance
        group = str(UUID(int=chance.getrandbits(128)))
        span = (UNTIL - self.since).total_seconds()
        first = 0.0 if number % 3 else chance.uniform(0, 0.5 * span)
        last = span if number % 4 else chance.uniform(max(first, 0.5 * span), span)
        often = self.sample.events
        happened = sorted(
            chance.uniform(first, last)
            for _ in range(round(chance.expovariate(1 / often)) if often else 0)
        )
        limit, flag = chance.choice(_LIMITS), False
        states = [(self._seen(first), flag, limit)]
        if first:
            self._add_event(group, "created", first, limit)
        for at in happened:
            if flag:
                self._add_event(group, "reset", at)
                flag = False
            elif chance.random() < 0.4:
                self._add_event(group, "triggered", at)
                if chance.random() < 0.4:  # the reset comes before a poll could see the trigger
                    self._add_event(group, "reset", at + 7.25)
                    continue
                flag = True
            else:
                limit = chance.choice(_LIMITS)
                self._add_event(group, "limit_updated", at, limit)
            states.append((self._seen(at), flag, limit))
        end = None
        if last < span:
            self._add_event(group, "deleted", last)
            end = self._seen(last)
        self._add_states(group, _distinct(states), end, found=not first)

    def _add_states(self, group: str, states: list[_State], end: Any, *, found: bool) -> None:
        if end is not None and states[-1][0] >= end:
            end = None
        for place, (start, flag, limit) in enumerate(states):
            changes = place + 1 < len(states)
            until = states[place + 1][0] if changes else end
            began = "changed" if place else "found" if found else "appeared"
            self._add(
                "order_group_snapshots",
                order_group_id=group,
                valid_from=start,
                is_auto_cancel_enabled=flag,
                contracts_limit=f"{limit}.00",
                begin_reason=began,
                not_before=None if began == "found" else start - timedelta(seconds=60),
                last_seen_at=until,
                valid_to=until,
                end_reason=None if until is None else "changed" if changes else "removed",
                first_poll_id=1,
            )

    def _seen(self, seconds: float) -> datetime:
        """Return when a poll could first see a change made `seconds` after the history's start."""
        at = self.since + timedelta(seconds=seconds)
        for start, end, *_ in self.stretches:
            if at <= end:
                return min(max(at + timedelta(seconds=0.4), start), end)
        return self.stretches[-1][1]

    def _add_event(self, group: str, kind: str, seconds: float, limit: int | None = None) -> None:
        """Add an event, unless it falls into a gap in the stream coverage."""
        at = self.since + timedelta(milliseconds=round(seconds * 1000))
        hours = (UNTIL - at).total_seconds() / 3600
        gaps = self.sample.stream_gaps
        if gaps is None or at >= UNTIL or any(end < hours < begin for begin, end, _ in gaps):
            return
        self._add(
            "order_group_events",
            order_group_id=group,
            occurred_at=at,
            identity=kind,
            event_type=kind,
            event_at=at,
            contracts_limit=None if limit is None else f"{limit}.00",
            received_at=at + timedelta(milliseconds=41),
        )


def _distinct(states: list[_State]) -> list[_State]:
    """Return the states without those that no poll could see or that repeat their predecessor."""
    kept: list[_State] = []
    for state in states:
        if kept and state[0] <= kept[-1][0]:
            kept[-1] = (kept[-1][0], *state[1:])
        elif not kept or state[1:] != kept[-1][1:]:
            kept.append(state)
    return kept


def _stored(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: to_text(value) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
