"""Build docs/performance.md: what the figures mean, the figures, and how to repeat them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.conditions import as_table, in_a_sentence
from benchmarks.results import (
    EXPORTER,
    FLOOR,
    Line,
    Section,
    as_text,
    floor_table,
    peer_table,
    table,
    times,
)

# The short table's rows, each with the beginning of the names of its cases.
_SHORT = {
    "one poll of 25 groups, nothing changed": "25 groups, nothing changed",
    "one poll of 100,000 groups, nothing changed": "100,000 groups, nothing changed",
    "the same, and 1.2 % changed": "100,000 groups, 1 % changed",
    "the first poll of 100,000 groups": "the first poll of 100,000 groups",
    "peak memory of these polls": "peak memory of all these polls",
    "`run-once`, the whole process": "process: `run-once`",
    "the daemon: polls per second of one core's time": "daemon, 100 accounts",
    "an event, from its sending to its commit: median": "an event, from its sending",
    "a burst of events: events written per second": "a burst of",
    "the same through the whole daemon": "a burst through the daemon",
    "report of 1,000,000 snapshots": "report of",
    "status of 1,000 accounts": "status of",
}

_METHOD = """\
## How to read the figures

Each case is compared with two things. The **floor** is the least that a poll which keeps a
history can cost in Python. **Other tools** (dlt, a naive job, sqlite-utils) are what people would
use instead. All run in turn in one session against the same local exchange, which verifies every
signature and keeps its response ready. Every subject is a process of its own. Values are medians;
CPU is the exporter's own. Quote the ratios: the absolute figures depend on the machine.

`python -m benchmarks --write` makes this page and `performance.json`; do not edit them. To repeat
it:

    python -m venv .venv
    .venv/bin/pip install '.[postgres,parquet]' -r benchmarks/requirements.txt
    .venv/bin/python -m benchmarks              # about 15 minutes; --quick: four
    .venv/bin/python -m benchmarks --cases small large
"""

_TAIL = """\
## Targets that are missed, and why

- **25 groups on Postgres, against dlt.** The target was set with an older, slower dlt. requests
  and SQLAlchemy alone, writing one row, are not 60 times faster than the present dlt either: see
  their row.
- **`run-once`, against dlt.** Importing the packages alone, which is this case's floor, takes
  more than dlt's whole process divided by 4.5.
- **The database's size, against dlt.** The floor's database is as large as dlt's, with the
  columns and the key that readers of the history are promised, and one index. dlt's has neither
  key nor index, and does not tell accounts apart.
- **As of an instant, by the plain rule.** One condition is on the beginning of a state and one on
  its end, and an ordinary index serves one of them. In the middle of a history both databases
  read the table. [Queries](queries.md#as-of-an-instant) has a form for SQLite that uses indexes
  alone; it is in the table too.

## What the packages cost

- **A poll of 25 groups** takes about as long as requests and SQLAlchemy alone need to write one
  row, although it claims the account, moves its head, extends its coverage, and looks whether
  SQLite's file is still the same. The statements of such a poll pass SQLAlchemy by. Most of what
  it needs beyond the floor is what requests and urllib3 add to `http.client`: see where a poll's
  time goes.
- **The daemon** polls each account at its own instant. The packages alone cost less for a poll if
  all accounts come at once, because it finds the processor's caches warm; a row has them at the
  exporter's instants. What threads cost differs from run to run by a tenth and more.

## The garbage collector

The exporter's program lets 100,000 new objects pass before Python searches for garbage, where
Python's default is 700. All long-lived subjects get the same setting. The imports alone, the floor
of `run-once`, keep the default, because a plain script has it; a row beside it gives them the
exporter's setting.

## What is compared

**The floor** (`benchmarks/subjects/floor.py`): a signed GET on a kept `http.client` connection
and BLAKE2b of the body. If the body differs from the last one, it is decoded with `msgspec` and
compared with a dictionary in memory, and the changes are written with `sqlite3` or `psycopg` in
one transaction, as durable as the exporter's (WAL and `synchronous=FULL`, or Postgres as
installed), into tables of the same columns and key. The floor has no deadlines, limits, retries,
strict validation, confirmed removals, compare-and-swap, coverage, spool or logs, and no indexes
by time.

**The floor of listening** (`benchmarks/subjects/floor_listener.py`): websockets reads, msgspec
decodes, and the driver writes what has gathered in one transaction, into a table with the same key
and index. It proves nothing about what it may have missed, has no bounds and no reconnection, and
does not poll. An event's delay is measured between two processes on one machine, so on one clock.
The burst goes through the real command `daemon`, which polls a second account meanwhile. Idle
connections are measured without TLS.

**dlt** with its `scd2` merge, into SQLite through its SQLAlchemy destination, and into Postgres.
It keeps what changed and when. It cannot tell an absent group from a poll that did not happen,
and cannot confirm a removal. It stages and merges all groups in each run, and infers types.

**naive**: requests and SQLAlchemy Core, one row per group per poll. To find changes, a reader
compares all rows. A poll without groups and a failed poll leave no row, so an absent group and an
unobserved one look the same.

**sqlite-utils**: an upsert of the state, and each response appended as one JSON document. SQLite
only. Groups that are gone stay in the state, and the history consists of whole documents.
"""


def as_markdown(
    lines: Sequence[Line], sections: Sequence[Section], *, facts: Mapping[str, Any], quick: bool
) -> str:
    """Return the whole page.

    Args:
        lines: the cases.
        sections: tables of other shapes.
        facts: the machine and the packages, as `results.machine` returns them, and the conditions.
        quick: whether the benchmarks ran with --quick.
    """
    return "\n".join(_parts(lines, sections, facts, quick=quick))


def _parts(
    lines: Sequence[Line], sections: Sequence[Section], facts: Mapping[str, Any], *, quick: bool
) -> Iterator[str]:
    yield "# Performance\n"
    yield (
        "What a poll costs in time, memory and disk, beside the least that it could cost and beside"
        " other tools.\n"
    )
    meaning = " ".join(_meaning(lines))
    if meaning:
        yield f"{meaning}\n"
    short = list(_short(lines))
    if short:
        headings = ["", "SQLite", "Postgres", "of the floor", "dlt needs"]
        yield table(headings, short) + "\n"
    yield _METHOD
    if quick:
        yield "This was a quick look: fewer groups, and fewer polls of each.\n"
    cases = facts.get("cases", ())
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    yield (
        f"Measured on {facts['cores']} cores of {facts['processor']}, {facts['system']}, Python"
        f" {facts['python']}. {in_a_sentence(cases)} Packages: {packages}.\n"
    )
    if lines:
        yield "## Beside the floor\n"
        yield floor_table(lines) + "\n"
        yield "## Beside other tools\n"
        yield (
            "In parentheses: how many times as much as the exporter, and whether the target was"
            " met.\n"
        )
        yield peer_table(lines) + "\n"
    for section in sections:
        yield f"## {section.title}\n"
        if section.note:
            yield f"{section.note}\n"
        yield from _section(section)
    if cases:
        yield "## How quiet the machine was\n"
        yield as_table(cases) + "\n"
    yield _TAIL


def _section(section: Section) -> Iterator[str]:
    """Yield a section's table, and its plans as a list, because they are too wide for a column."""
    if section.headings[-1] != "plan":
        yield table(section.headings, section.rows) + "\n"
        return
    yield table(section.headings[:-1], [row[:-1] for row in section.rows]) + "\n"
    yield "The plans:\n"
    for row in section.rows:
        plan = row[-1].replace("\\|", "|")
        yield f"- {row[0]}: `{plan}`"
    yield ""


def _find(lines: Sequence[Line], beginning: str, database: str) -> Line | None:
    found = (
        line for line in lines if line.case.startswith(beginning) and f"{database}" in line.case
    )
    return next(found, None)


def _meaning(lines: Sequence[Line]) -> Iterator[str]:
    """Yield up to three sentences about what the figures mean, if their cases were measured."""
    small = _find(lines, "25 groups, nothing changed", "SQLite")
    large = _find(lines, "100,000 groups, nothing changed", "SQLite")
    if small is not None and large is not None:
        yield (
            f"When nothing has changed, a poll of 25 groups takes {_value(small)}"
            f" ({times(small.ratio)} the least that a Python program with a history needs), and a"
            f" poll of 100,000 groups takes {_value(large)} ({times(large.ratio)})."
        )
        ahead = [each.times_ahead("dlt") for each in (small, large)]
        if None not in ahead:
            yield (
                f"A pipeline with dlt takes {times(ahead[0])} and {times(ahead[1])} as long for the"
                " same history."
            )
    daemon = _find(lines, "daemon, 100 accounts", "SQLite")
    start = _find(lines, "process: `run-once`", "")
    imports = _find(lines, "the same (floor: the imports alone", "")
    if daemon is not None and start is not None and imports is not None:
        yield (
            f"One core is enough for {as_text(daemon.values[EXPORTER], daemon.unit)} polls of 25"
            f" groups a second in the daemon, and a whole `run-once` takes {_value(start)}, of"
            f" which {as_text(imports.values[FLOOR], imports.unit)} {imports.unit} are imports."
        )


def _short(lines: Sequence[Line]) -> Iterator[list[str]]:
    for what, beginning in _SHORT.items():
        sqlite = _find(lines, beginning, "SQLite") or _find(lines, beginning, "")
        if sqlite is None:
            continue
        pair = [sqlite]
        if (postgres := _find(lines, beginning, "Postgres")) is not None:
            pair.append(postgres)
        ahead = [times(each.times_ahead("dlt")) for each in pair if "dlt" in each.values]
        yield [
            what,
            _value(sqlite),
            "" if postgres is None else _value(postgres),
            ", ".join(times(each.ratio) for each in pair),
            ", ".join(ahead),
        ]


def _value(line: Line) -> str:
    unit = "a second" if line.more_is_better else line.unit
    return f"{as_text(line.values[EXPORTER], line.unit)} {unit}"
