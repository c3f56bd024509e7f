"""Measure where a small poll's time goes, and why tuning cannot bring it to the floor."""

from benchmarks.results import Section
from benchmarks.setting import Setting


def parts(setting: Setting) -> list[Section]:
    """Measure the share of each package, with 25 unchanged groups, on both databases."""
    setting.fill(25)
    shares = []
    for on_postgres in (False, True):
        place = setting.place(on_postgres=on_postgres, detail="100" if setting.quick else "1000")
        with setting.temporary(place), setting.start("exporter_profile", place) as process:
            shares.append(process.ask()["parts"])
    sqlite, postgres = shares
    return [
        Section(
            title="Where a poll's time goes: 25 groups, nothing changed",
            headings=["part", "SQLite", "Postgres"],
            rows=[[part, f"{sqlite[part]:.0%}", f"{postgres[part]:.0%}"] for part in sqlite],
            note="Measured with Python's profiler, which makes calls in Python look more expensive"
            " than calls in C. The floor pays for signing, plain HTTP and one statement only.",
        )
    ]
