"""The data dictionary: the one description of every table, view and column.

`comments` writes it into the database, and the pages in docs/ are generated from it.
"""

from collections.abc import Iterator

import msgspec

from exporter.history.dictionary_tables import TABLES
from exporter.history.dictionary_views import VIEWS
from exporter.history.dictionary_words import EXPORTER


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The description of one column, or of a table or view itself.

    Attributes:
        object: the table or view.
        column: its column; "" for the table or view itself.
        meaning: in a sentence or two.
        unit: of the values; "" where there is nothing to say.
        nullable: whether it may be null; of a table or view false.
        source: where the values come from.
    """

    object: str
    column: str
    meaning: str
    unit: str
    nullable: bool
    source: str

    @property
    def comment(self) -> str:
        """Return all of it in one text, for Postgres and Datasette."""
        facts = [f"Unit: {self.unit}." if self.unit else "", f"From {self.source}."]
        return " ".join(filter(None, [self.meaning, *facts]))


_OBJECTS = VIEWS | TABLES


def lines(name: str) -> Iterator[Line]:
    """Yield the lines on one table or view: itself first, then its columns in order."""
    meaning, columns = _OBJECTS[name]
    yield Line(object=name, column="", meaning=meaning, unit="", nullable=False, source=EXPORTER)
    for key, (what, unit, source) in columns.items():
        yield Line(
            object=name,
            column=key.rstrip("?"),
            meaning=what,
            unit=unit,
            nullable=key.endswith("?"),
            source=source,
        )


OBJECTS = tuple(_OBJECTS)
"""All tables and views, those that are made for reading first."""
