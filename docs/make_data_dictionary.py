# ruff: noqa: INP001  # a script beside its page, not part of a package
"""Write the dictionary, `exporter.history.dictionary`, as a page and as metadata for Datasette.

Run it after a change of the dictionary: `python docs/make_data_dictionary.py`. A test checks both.
"""

import json
from pathlib import Path

from exporter.history.dictionary import OBJECTS, lines

DOCS = Path(__file__).parent


def page() -> str:
    """Return the text of `docs/data-dictionary.md`."""
    introduction = (
        "# Data dictionary\n\n"
        "What each view, table and column means. The same text is in the database: in the table\n"
        "`data_dictionary`, and on Postgres as comments (`\\d+ polls` in psql).\n\n"
        "<!-- Made by docs/make_data_dictionary.py from exporter/history/dictionary.py. -->\n"
    )
    parts = [introduction]
    for name in OBJECTS:
        itself, *columns = lines(name)
        parts.append(
            f"\n## {name}\n\n{itself.meaning}\n\n"
            "| column | meaning | unit | null | from |\n|---|---|---|---|---|\n"
        )
        parts += [
            f"| `{line.column}` | {line.meaning} | {line.unit} |"
            f" {'yes' if line.nullable else 'no'} | {line.source} |\n"
            for line in columns
        ]
    return "".join(parts)


def metadata() -> str:
    """Return the text of `docs/datasette-metadata.json`, for a file named `order_groups.db`."""
    tables = {}
    for name in OBJECTS:
        itself, *columns = lines(name)
        tables[name] = {
            "description": itself.meaning,
            "columns": {line.column: line.comment for line in columns},
        }
    described = {
        "title": "Kalshi order groups",
        "description": "What the order groups of these accounts were doing, and who looked when.",
        "databases": {"order_groups": {"tables": tables}},
    }
    return json.dumps(described, indent=2) + "\n"


MADE = {"data-dictionary.md": page, "datasette-metadata.json": metadata}

if __name__ == "__main__":
    for name, make in MADE.items():
        (DOCS / name).write_text(make(), "utf-8")
