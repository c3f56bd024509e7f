"""Record how quiet the machine was while a case was measured."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.results import table

_STEAL = 7  # the column of stolen time in the line "cpu" of /proc/stat, after the name


@contextmanager
def observed(case: str) -> Iterator[dict[str, Any]]:
    """Record the conditions under which a case is measured.

    Yields:
        A dictionary for JSON, complete when the block ends: the `case`; `load`, the load average of
        the minute before; its `seconds`; and `steal`, the share of all processors' time that the
        hypervisor gave to others during the case, None if the system does not report it.
    """
    conditions: dict[str, Any] = {"case": case, "load": os.getloadavg()[0]}
    before, began = _processors(), perf_counter()
    yield conditions
    conditions["seconds"] = perf_counter() - began
    after = _processors()
    conditions["steal"] = None
    if before is not None and after is not None and after[1] > before[1]:
        conditions["steal"] = (after[0] - before[0]) / (after[1] - before[1])


def _processors() -> tuple[int, int] | None:
    """Return the stolen ticks of all processors, and all their ticks; None if unknown."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    ticks = [int(each) for each in line.split()[1:]][
        : _STEAL + 1
    ]  # the columns after it are contained in the first
    return (ticks[_STEAL], sum(ticks)) if len(ticks) > _STEAL else None


def in_a_sentence(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the least quiet case, for the page."""
    if not cases:
        return ""
    load = max(each["load"] for each in cases)
    said = (
        f"Before the least quiet case {load:.1f} processes were at work on average; the benchmark's"
        " own are one to three."
    )
    steals = [each["steal"] for each in cases if each["steal"] is not None]
    if steals:
        said += f" The hypervisor took at most {max(steals):.1%} of the processors' time."
    return said


def as_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row for each case, in Markdown."""
    return table(
        ["case", "seconds", "load average before it", "processor time taken by the hypervisor"],
        [
            [
                each["case"],
                f"{each['seconds']:.0f}",
                f"{each['load']:.1f}",
                "-" if each["steal"] is None else f"{each['steal']:.1%}",
            ]
            for each in cases
        ],
    )
