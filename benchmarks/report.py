"""docs/performance.md: the tables with what a reader needs to judge and repeat them."""

from collections.abc import Sequence

from benchmarks.results import Line, Section, lines_as_markdown, machine, table

_HEAD = """\
# Performance

Made by `python -m benchmarks --write`; do not edit. Each case stands beside its **floor**,
the least that a poll which keeps a history can cost in Python, and beside **peers**, what people
would use instead. All run in turn in one session against the same local exchange, which verifies
every signature and keeps its answer ready; every subject is a process of its own. Values are
medians, CPU is the exporter's own. Quote the ratios: the rest is the machine's.

    python -m venv .venv
    .venv/bin/pip install '.[postgres,parquet]' -r benchmarks/requirements.txt
    .venv/bin/python -m benchmarks              # some ten minutes; --quick: two
    .venv/bin/python -m benchmarks --cases small large
"""

_TAIL = """\
## What is missed, and why

- **25 groups, against dlt.** The target was set with a slower dlt. requests and SQLAlchemy alone,
  which write one row, are not 60 times ahead of this one either: they have lines of their own.
- **25 groups on Postgres.** Beyond what those two take, half as much again as the floor, there is
  what the floor leaves out: the claim, a message and a small transaction, by which of several
  exporters only one asks the exchange; and in the poll's own message the head and the stretch of
  coverage, beside the one row that the floor writes.
- **`run-once`, against dlt.** The imports of the packages alone, this case's floor, take more than
  dlt's whole process divided by 4.5.
- **The daemon.** APScheduler, requests and SQLAlchemy alone do not reach half of the floor's rate
  either: they have lines of their own.
- **The database's bytes, against dlt.** The floor's database is as large as dlt's, with the columns
  and the key that readers of the history are promised, and one index. dlt's has neither key nor
  index, and does not tell accounts apart.
- **As of an instant, by the plain rule.** It has a condition on the beginning of a state and one on
  its end, and an ordinary index finds rows by one of them: in the middle of a history both
  databases read the table, from which the first row comes at once. docs/queries.md has a form for
  SQLite that goes through indexes alone; it is in the table too.

## What is compared

**The floor** (`benchmarks/subjects/floor.py`): a signed GET on a kept `http.client`
connection, BLAKE2b of the body; if it is another than before, `msgspec`, a comparison with a
dictionary in memory, and what changed written with `sqlite3` or `psycopg` in one transaction, as
durable as the exporter's (WAL and `synchronous=FULL`, or Postgres as it comes) into tables of the
same columns and key. It has no deadlines, limits, retries, strict validation, confirmed removals,
compare-and-swap, coverage, spool or logs, and no indexes by time.

**dlt** with its `scd2` merge, into SQLite through its SQLAlchemy destination, and into Postgres:
keeps what changed and when. It cannot tell an absent group from a poll that did not happen, nor
confirm a removal; it stages and merges all groups whenever it runs, and guesses types.

**naive**, requests and SQLAlchemy Core, one row per group per poll: what changed has to be found
by comparing all rows; what was not observed cannot be told from what was absent, since a poll
without groups, and a failed one, leave no row.

**sqlite-utils**, an upsert of the state and each answer appended as one JSON document: SQLite only;
groups that are gone stay in the state; its history is whole documents.
"""


def as_markdown(lines: Sequence[Line], sections: Sequence[Section], *, quick: bool) -> str:
    """All of the document."""
    facts = machine()
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    parts = [_HEAD]
    if quick:
        parts.append("This is a quick look: fewer groups, and fewer polls of each.\n")
    parts.append(
        f"Measured on {facts['cores']} cores of {facts['processor']}, {facts['system']},"
        f" Python {facts['python']}; {packages}; with {facts['load']:.1f} processes at work on"
        " average, which should be one or two.\n"
    )
    if lines:
        parts.append(lines_as_markdown(lines) + "\n")
    for section in sections:
        parts.append(f"## {section.title}\n")
        if section.note:
            parts.append(section.note + "\n")
        parts.append(table(section.headings, section.rows) + "\n")
    parts.append(_TAIL)
    return "\n".join(parts)
