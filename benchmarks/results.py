"""The results as lines with their targets, and their conversion to Markdown and JSON."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EXPORTER = "exporter"
FLOOR = "floor"
PEERS = ("dlt", "naive", "sqlite-utils")

_PACKAGES = (
    "alembic",
    "apscheduler",
    "click",
    "cryptography",
    "dlt",
    "msgspec",
    "psycopg",
    "pyarrow",
    "requests",
    "sqlalchemy",
    "sqlite-utils",
    "urllib3",
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The result of one case.

    Attributes:
        case: what was measured.
        unit: how values are shown: "ms", "MB", "%" or "/s". The values themselves are in seconds,
            bytes, fractions of one, and polls or events per second.
        values: medians, by subject.
        cpu: the process's own CPU seconds, by subject.
        at_most: the target for the ratio to the floor; a minimum if more is better.
        above: the target for the difference to the floor, in the unit of the values.
        ahead: for each peer, the factor by which it must at least be slower.
    """

    case: str
    unit: str
    values: Mapping[str, float]
    cpu: Mapping[str, float] = field(default_factory=dict)
    at_most: float | None = None
    above: float | None = None
    ahead: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The exporter's value divided by the floor's; None without a floor."""
        floor = self.values.get(FLOOR)
        return self.values[EXPORTER] / floor if floor else None

    @property
    def cpu_ratio(self) -> float | None:
        """The exporter's CPU time divided by the floor's; None without a floor."""
        floor = self.cpu.get(FLOOR)
        return self.cpu[EXPORTER] / floor if floor else None

    def times_ahead(self, peer: str) -> float | None:
        """Return the peer's value divided by the exporter's."""
        value = self.values.get(peer)
        return None if value is None else value / self.values[EXPORTER]

    def summary(self) -> str:
        """Return the result as one line of text."""
        values = (f"{name} {as_text(each, self.unit)}" for name, each in self.values.items())
        cpu = "" if self.cpu_ratio is None else f"; CPU {self.cpu_ratio:.2f} of the floor's"
        ratio = "" if self.ratio is None else f"; {self.ratio:.2f} of the floor"
        return f"{self.case}, {self.unit}: {', '.join(values)}{ratio}{cpu}"

    @property
    def within_floor(self) -> bool | None:
        """Whether the value meets its target beside the floor; None without a target."""
        if self.above is not None:
            return self.values[EXPORTER] <= self.values[FLOOR] + self.above
        if self.at_most is None or self.ratio is None:
            return None
        return self.ratio >= self.at_most if self.more_is_better else self.ratio <= self.at_most

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is better."""
        return self.unit == "/s"

    def is_ahead(self, peer: str) -> bool | None:
        """Return whether the exporter meets its target beside a peer; None without a target."""
        ahead = self.times_ahead(peer)
        return None if ahead is None or peer not in self.ahead else ahead >= self.ahead[peer]

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None if there are none."""
        met = [self.within_floor, *map(self.is_ahead, self.ahead)]
        known = [each for each in met if each is not None]
        return all(known) if known else None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A result in a table of its own shape."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def as_text(value: float | None, unit: str) -> str:
    """Return a value in its unit, with about three significant digits."""
    if value is None:
        return "-"
    scaled = {"ms": value * 1e3, "MB": value / 1e6, "%": value * 1e2, "/s": value}[unit]
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:,.{digits}f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def floor_table(lines: Sequence[Line]) -> str:
    """Return the table that compares the exporter with the floor."""
    rows = []
    for line in lines:
        target = ""
        if line.within_floor is not None:
            sign = "≥" if line.more_is_better else "≤"
            verdict = "met" if line.within_floor else "**missed**"
            if line.above is None:
                bound = f"{line.at_most:g}"
            else:
                bound = f"floor + {as_text(line.above, line.unit)} {line.unit}"
            target = f"{sign} {bound}: {verdict}"
        rows.append(
            [
                line.case,
                f"{as_text(line.values[EXPORTER], line.unit)} {line.unit}",
                as_text(line.values.get(FLOOR), line.unit),
                times(line.ratio),
                times(line.cpu_ratio),
                target,
            ]
        )
    return table(["case", "exporter", "floor", "ratio", "ratio of CPU", "target"], rows)


def peer_table(lines: Sequence[Line]) -> str:
    """Return the table that compares the exporter with other tools, where one was measured."""
    rows = []
    for line in lines:
        if not any(peer in line.values for peer in PEERS):
            continue
        row = [line.case, f"{as_text(line.values[EXPORTER], line.unit)} {line.unit}"]
        for peer in PEERS:
            text = as_text(line.values.get(peer), line.unit)
            if (ahead := line.times_ahead(peer)) is not None:
                text += f" ({times(ahead)})"
            if (met := line.is_ahead(peer)) is not None:
                text += f"; target {line.ahead[peer]:g}x: {'met' if met else '**missed**'}"
            row.append(text)
        rows.append(row)
    return table(["case", "exporter", *PEERS], rows)


def times(ratio: float | None) -> str:
    """Return a ratio as text, such as "2.5x"."""
    return "-" if ratio is None else f"{_rounded(ratio)}x"


def _rounded(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def machine() -> dict[str, Any]:
    """Return the facts about the machine and its software."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_json(
    lines: Sequence[Line], sections: Sequence[Section], *, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all results as a document for JSON.

    Args:
        lines: the cases.
        sections: tables of other shapes.
        facts: the machine, the packages, and the conditions of each case.
    """
    return {
        "machine": facts,
        "lines": [
            asdict(line)
            | {
                "ratio": line.ratio,
                "cpu_ratio": line.cpu_ratio,
                "times_ahead": {peer: line.times_ahead(peer) for peer in PEERS},
                "met": line.met,
            }
            for line in lines
        ],
        "sections": [asdict(section) for section in sections],
    }


def from_json(document: Mapping[str, Any]) -> tuple[list[Line], list[Section]]:
    """Return the lines and sections of a document that `as_json` returned."""
    # A field that an older document lacks gets its default.
    names, lines = Line.__dataclass_fields__, document["lines"]
    return (
        [Line(**{name: line[name] for name in names if name in line}) for line in lines],
        [Section(**section) for section in document["sections"]],
    )
