"""Measure how the cost of a poll grows with the account and its history."""

from itertools import pairwise

from benchmarks import history
from benchmarks.place import Place
from benchmarks.results import Section, as_text
from benchmarks.setting import Samples, Setting

_CHANGES = 100
_COUNTS = ("statements", "rows")


def growth(setting: Setting, *, on_postgres: bool) -> list[Section]:
    """Measure polls without changes and with 100, by the number of groups and earlier polls."""
    sizes = (1_000, 10_000) if setting.quick else (1_000, 10_000, 100_000)
    histories = (1, 1_000) if setting.quick else (1, 1_000, 10_000)
    rows = []
    for groups in sizes:
        setting.fill(groups)
        for polls in histories:
            place = setting.place(on_postgres=on_postgres, detail="count")
            with setting.temporary(place):
                history.make_schema(place)
                history.polls_behind(place, "account-0", polls, changes=10)
                rows.append((f"{groups:,}", f"{polls:,}", *_measured(setting, place)))
    return [
        Section(
            title=f"Growth, {'Postgres' if on_postgres else 'SQLite'}",
            headings=(
                "groups",
                "polls before, of 10 changes each",
                "unchanged: statements",
                "rows written",
                "ms",
                f"{_CHANGES} changed: statements",
                "rows written ",
                "ms ",
            ),
            rows=rows,
            note="A changed group costs two rows: one is closed, one is opened. An unchanged poll"
            " of more groups takes longer because its response is longer, and is read and hashed.",
        )
    ]


def _measured(setting: Setting, place: Place) -> list[str]:
    """Return the cells of a row: statements, rows and milliseconds, unchanged and changed."""
    cells = []
    with setting.start("exporter_poller", place) as process:
        process.ask()  # the first poll writes all groups
        for changes in (0, _CHANGES):
            samples = Samples()
            for number in range(8):
                if changes:
                    setting.churn(changed=changes)
                answer = process.ask()
                if number > 0:  # the first poll after another kind also writes the digest
                    samples.add("", wall=answer["wall"])
            # This is not timed: asking Postgres for its statistics makes the next poll slow.
            counts = []
            for _ in range(4):
                if changes:
                    setting.churn(changed=changes)
                counts.append(process.ask(counts=True))
            for before, after in pairwise(counts):
                samples.add("", **{name: after[name] - before[name] for name in _COUNTS})
            cells += [f"{samples.most(name)['']:.0f}" for name in _COUNTS]
            cells.append(as_text(samples.medians("wall")[""], "ms"))
    return cells
