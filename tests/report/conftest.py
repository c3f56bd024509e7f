"""Share the recorder fixtures with the tests of the report."""

from tests.support.recorder import recorder, sqlite_recorder, two_recorders

__all__ = ["recorder", "sqlite_recorder", "two_recorders"]
