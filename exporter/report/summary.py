"""What matters in a report, in sentences for someone who does not know the tables.

The same words stand in the charts' legends: `CAUSES` goes to the page with the data.
"""

from datetime import UTC, datetime

from exporter.causes import NOT_RUNNING, POLL_GAP_CAUSES
from exporter.report.coverage import BEFORE, Observed
from exporter.report.groups import Groups
from exporter.report.polls import Polls
from exporter.report.span import Span

CAUSES: dict[str, str] = dict([*POLL_GAP_CAUSES.items(), (BEFORE, "recording had not begun")])
"""Why something was not observed, and how a failed poll ended, for people."""

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400

Sentence = tuple[str, str]
"""`good`, `bad` or `plain`, and the text."""


def sentences(
    observed: Observed, groups: Groups, polls: Polls, span: Span, *, now: datetime
) -> list[Sentence]:
    """Say of one account whether it was observed, what stands and changed, and if it goes on."""
    if observed.last is None:
        cause = max(observed.missed, key=lambda each: observed.missed[each], default=NOT_RUNNING)
        return [
            ("bad", f"Never observed: {CAUSES.get(cause, cause)}."),
            *_polls(observed, polls, span),
        ]
    return [
        _recording(observed.last, now, recording=observed.recording),
        *_observed(observed),
        *_groups(groups),
        *_polls(observed, polls, span),
    ]


def duration(seconds: float) -> str:
    """Write a duration in its two largest units, such as `2 h 10 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for size, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def instant_text(instant: datetime) -> str:
    """Write an instant for people, in UTC."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def share(missed: float, seconds: float) -> str:
    """Write how much was observed in percent; 100 % only if nothing is missing."""
    if missed <= 0:
        return "100 %"
    return f"{min(100 * (1 - missed / seconds), 99.99):.2f} %" if seconds else "0 %"


def _recording(last: datetime, now: datetime, *, recording: bool) -> Sentence:
    ago = duration(max((now - last).total_seconds(), 0.0))
    text = f"the last observation was {ago} before this page was made, at {instant_text(last)}."
    return ("good", f"Recording: {text}") if recording else ("bad", f"Not recording now: {text}")


def _observed(observed: Observed) -> list[Sentence]:
    missed = sum(observed.missed.values())
    if not observed.gaps:
        return [("good", f"All of it was observed: {duration(observed.seconds)} without a gap.")]
    reasons = ", ".join(
        f"{duration(seconds)} because {CAUSES.get(cause, cause)}"
        for cause, seconds in sorted(observed.missed.items(), key=lambda each: -each[1])
    )
    gaps = "one gap" if observed.gaps == 1 else f"{observed.gaps:,} gaps"
    return [
        ("bad", f"{share(missed, observed.seconds)} of the time was observed."),
        ("bad", f"{duration(missed)} is missing in {gaps}: {reasons}. Nobody knows what was then."),
    ]


def _groups(groups: Groups) -> list[Sentence]:
    standing, on = groups.now
    stand = _count(standing, "order group stood", "order groups stood")
    stand = f"{stand} at the last observation"
    if standing:
        stand += f": {on:,} probably triggered"
    appeared, changed, disappeared = groups.total
    total = sum(groups.total)
    if not total:
        return [("plain", f"{stand}. Nothing changed.")]
    counted = f"{appeared:,} appeared, {changed:,} changed, {disappeared:,} disappeared"
    return [("plain", f"{stand}. {_count(total, 'change', 'changes')}: {counted}.")]


def _polls(observed: Observed, polls: Polls, span: Span) -> list[Sentence]:
    said: list[Sentence] = []
    if polls.total:
        failed = polls.total - polls.outcomes.get("ok", 0)
        many = _count(polls.total, "poll", "polls")
        said.append(("plain", f"{many}, {failed:,} of them failed."))
    first_seen = observed.seen.find(1)
    first_kept = span.parts if polls.first is None else span.part(polls.first)
    if first_seen >= 0 and (first_kept - first_seen) * span.width > _HOUR:
        kept = "of this time" if polls.first is None else f"before {instant_text(polls.first)}"
        text = (
            f"The single polls {kept} are no longer kept: failures, latency and clock are not"
            " known for them. Coverage and order groups are."
        )
        said.append(("plain", text))
    return said


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
