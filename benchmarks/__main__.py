"""Measure the exporter, and compare it with the floor and the peers: `python -m benchmarks`.

The program prints the tables. With `--write`, it also replaces docs/performance.md and .json. With
`--render`, it measures nothing, and makes docs/performance.md from docs/performance.json.
"""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from benchmarks import accounts, capacity, events, growth, parts, polls, reading, starts, stream
from benchmarks.conditions import observed
from benchmarks.report import as_markdown
from benchmarks.results import Line, Section, as_json, from_json, machine
from benchmarks.setting import ROOT, Setting

_T = TypeVar("_T")

Case = Callable[[Setting], "list[Line] | list[Section]"]

CASES: dict[str, Case] = {
    "small": partial(polls.small, on_postgres=False),
    "small-postgres": partial(polls.small, on_postgres=True),
    "parts": parts.parts,
    "large": partial(polls.large, on_postgres=False),
    "large-postgres": partial(polls.large, on_postgres=True),
    "stored": polls.stored,
    "help": starts.help_text,
    "run-once": starts.run_once,
    "daemon": partial(polls.daemon, on_postgres=False),
    "daemon-postgres": partial(polls.daemon, on_postgres=True),
    "burst": partial(events.burst, on_postgres=False),
    "burst-postgres": partial(events.burst, on_postgres=True),
    "burst-daemon": partial(stream.burst, on_postgres=False),
    "burst-daemon-postgres": partial(stream.burst, on_postgres=True),
    "latency": partial(stream.latency, on_postgres=False),
    "latency-postgres": partial(stream.latency, on_postgres=True),
    "accounts": accounts.accounts,
    "report": partial(reading.report, on_postgres=False),
    "report-postgres": partial(reading.report, on_postgres=True),
    "status": partial(reading.status, on_postgres=False),
    "status-postgres": partial(reading.status, on_postgres=True),
    "export": partial(reading.exports, on_postgres=False),
    "export-postgres": partial(reading.exports, on_postgres=True),
    "growth": partial(growth.growth, on_postgres=False),
    "growth-postgres": partial(growth.growth, on_postgres=True),
    "queries": partial(reading.queries, on_postgres=False),
    "queries-postgres": partial(reading.queries, on_postgres=True),
    "capacity": capacity.capacity,
}


def main() -> None:
    """Run the cases that the command line chooses."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: four minutes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace docs/performance.*, or what is there of the chosen cases",
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing; make the page again"
    )
    arguments = parser.parse_args()
    docs = ROOT / "docs"
    if arguments.render:
        document = json.loads((docs / "performance.json").read_text())
        page = as_markdown(*from_json(document), facts=document["machine"], quick=False)
        (docs / "performance.md").write_text(page)
        return

    # A signal raises SystemExit, so that the context managers stop everything that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    lines: list[Line] = []
    sections: list[Section] = []
    failed: list[str] = []
    conditions: list[dict[str, Any]] = []
    with Setting(quick=arguments.quick) as setting:
        for name in arguments.cases:
            sys.stderr.write(f"{name} …")
            sys.stderr.flush()
            try:
                with observed(name) as condition:
                    results = CASES[name](setting)
            except Exception:  # noqa: BLE001  # one failure must not cost the other cases
                sys.stderr.write(f"\n{traceback.format_exc()}")
                failed.append(name)
                continue
            conditions.append(condition)
            lines += [each for each in results if isinstance(each, Line)]
            sections += [each for each in results if isinstance(each, Section)]
            sys.stderr.write(f" {condition['seconds']:.0f} s\n")
            for line in results:
                if isinstance(line, Line):
                    sys.stderr.write(f"  {line.summary()}\n")

    if arguments.write and arguments.cases != list(CASES):
        document = json.loads((docs / "performance.json").read_text())
        former_lines, former_sections = from_json(document)
        lines = _in_place(former_lines, lines, attrgetter("case"))
        sections = _in_place(former_sections, sections, attrgetter("title"))
        conditions = _in_place(document["machine"]["cases"], conditions, itemgetter("case"))
    facts = machine() | {"cases": conditions}
    text = as_markdown(lines, sections, facts=facts, quick=arguments.quick)
    sys.stdout.write(text)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if arguments.write:
        (docs / "performance.md").write_text(text)
        (docs / "performance.json").write_text(
            json.dumps(as_json(lines, sections, facts=facts), indent=2, ensure_ascii=False) + "\n"
        )


def _in_place(former: list[_T], measured: list[_T], name: Callable[[_T], str]) -> list[_T]:
    """Return the former results, with the ones just measured in their places."""
    new = {name(each): each for each in measured}
    return [new.pop(name(each), each) for each in former] + list(new.values())


if __name__ == "__main__":
    main()
