"""Fixtures of the tests that read a recorded history: pytest looks for them here."""

from tests.support.recorder import recorder, sqlite_recorder, two_recorders

__all__ = ["recorder", "sqlite_recorder", "two_recorders"]
