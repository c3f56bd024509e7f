"""Makes the fixtures with a recorded history available to the tests in this folder."""

from tests.support.recorder import recorder, sqlite_recorder, two_recorders

__all__ = ["recorder", "sqlite_recorder", "two_recorders"]
