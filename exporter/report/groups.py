"""How many order groups existed and changed in each part of a span."""

from dataclasses import dataclass, field

from exporter.report.span import Span
from exporter.report.tally import PartChanges, Tally

_NOTHING = PartChanges(appeared=0, changed=0, disappeared=0, found=0, flagged=0)


@dataclass(slots=True, kw_only=True)
class Groups:
    """The order groups of one account in a span.

    Attributes:
        standing: at the end of each part, as last seen in it; None where nothing was observed.
        flagged: those of them whose `is_auto_cancel_enabled` was true: probably triggered.
        changes: for the parts with any: number of the part; groups that appeared, changed and
            disappeared.
        total: the same three for the whole span.
        now: standing at the span's last observation, and those of them that were flagged.
    """

    standing: list[int | None] = field(default_factory=list)
    flagged: list[int | None] = field(default_factory=list)
    changes: list[tuple[int, int, int, int]] = field(default_factory=list)
    total: tuple[int, int, int] = (0, 0, 0)
    now: tuple[int, int] = (0, 0)


def groups(tally: Tally, span: Span, seen: bytearray) -> Groups:
    """Add up the order groups of an account over a span.

    Args:
        tally: of the account.
        span: what the report is about.
        seen: for each part, whether the account was observed in it.
    """
    found = Groups()
    standing, flagged = tally.standing, tally.flagged
    total = [0, 0, 0]
    for part in range(span.parts):
        changes = tally.changes.get(part, _NOTHING)
        standing += changes.appeared + changes.found - changes.disappeared
        flagged += changes.flagged
        counts = (changes.appeared, changes.changed, changes.disappeared)
        if any(counts):
            found.changes.append((part, *counts))
            total = [sum(each) for each in zip(total, counts, strict=True)]
        found.standing.append(standing if seen[part] else None)
        found.flagged.append(flagged if seen[part] else None)
    appeared, changed, disappeared = total
    found.total = (appeared, changed, disappeared)
    found.now = (standing, flagged)
    return found
