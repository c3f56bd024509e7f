"""Share the recorder fixtures with the tests of reading."""

from tests.support.recorder import recorder, sqlite_recorder, two_recorders

__all__ = ["recorder", "sqlite_recorder", "two_recorders"]
