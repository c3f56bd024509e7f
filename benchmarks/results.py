"""The table: lines with what was measured beside what was to be reached, as Markdown and JSON."""

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
    """One case.

    Attributes:
        case: what was done.
        unit: "ms", "MB" or "/s"; values are in seconds, bytes and polls per second.
        values: medians, by subject.
        cpu: the process's own CPU seconds, by subject.
        at_most: of the floor; at least, if more is better.
        ahead: of a peer, at least so many times.
    """

    case: str
    unit: str
    values: Mapping[str, float]
    cpu: Mapping[str, float] = field(default_factory=dict)
    at_most: float | None = None
    ahead: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The exporter's value over the floor's."""
        floor = self.values.get(FLOOR)
        return self.values[EXPORTER] / floor if floor else None

    @property
    def cpu_ratio(self) -> float | None:
        """The same of the process's CPU."""
        floor = self.cpu.get(FLOOR)
        return self.cpu[EXPORTER] / floor if floor else None

    def times_ahead(self, peer: str) -> float | None:
        """The peer's value over the exporter's."""
        value = self.values.get(peer)
        return None if value is None else value / self.values[EXPORTER]

    def summary(self) -> str:
        """All of it in a line."""
        values = (f"{name} {as_text(each, self.unit)}" for name, each in self.values.items())
        cpu = "" if self.cpu_ratio is None else f"; CPU {self.cpu_ratio:.2f} of the floor's"
        ratio = "" if self.ratio is None else f"; {self.ratio:.2f} of the floor"
        return f"{self.case}, {self.unit}: {', '.join(values)}{ratio}{cpu}"

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None if there are none."""
        met = []
        if self.at_most is not None and self.ratio is not None:
            more_is_better = self.unit == "/s"
            met.append(self.ratio >= self.at_most if more_is_better else self.ratio <= self.at_most)
        for peer, times in self.ahead.items():
            if (ahead := self.times_ahead(peer)) is not None:
                met.append(ahead >= times)
        return all(met) if met else None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of another shape."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def as_text(value: float | None, unit: str) -> str:
    """A value in its unit, with as many digits as mean something."""
    if value is None:
        return "-"
    scaled = {"ms": value * 1e3, "MB": value / 1e6, "/s": value}[unit]
    digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
    return f"{scaled:,.{digits}f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lines_as_markdown(lines: Sequence[Line]) -> str:
    """The main table."""
    headings = ["case", "", "exporter", "CPU", "floor", "over floor", "CPU over floor", "target"]
    headings += [f"{peer} (behind)" for peer in PEERS]
    rows = []
    for line in lines:
        more_is_better = line.unit == "/s"
        target = []
        if line.at_most is not None:
            target.append(f"{'≥' if more_is_better else '≤'} {line.at_most:g} floor")
        target += [f"≥ {times:g} {peer}" for peer, times in line.ahead.items()]
        verdict = {True: "met: ", False: "**missed**: ", None: ""}[line.met]
        row = [
            line.case,
            line.unit,
            as_text(line.values[EXPORTER], line.unit),
            as_text(line.cpu.get(EXPORTER), "ms"),
            as_text(line.values.get(FLOOR), line.unit),
            "-" if line.ratio is None else f"{line.ratio:.2f}",
            "-" if line.cpu_ratio is None else f"{line.cpu_ratio:.2f}",
            verdict + ", ".join(target),
        ]
        for peer in PEERS:
            ahead = line.times_ahead(peer)
            row.append(
                "-"
                if ahead is None
                else f"{as_text(line.values[peer], line.unit)} ({_rounded(ahead)} x)"
            )
        rows.append(row)
    return table(headings, rows)


def _rounded(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}"


def machine() -> dict[str, Any]:
    """What it was measured on."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[2],
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


def as_json(lines: Sequence[Line], sections: Sequence[Section]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine(),
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
