"""Fixtures of the tests of the report: pytest looks for them here."""

from tests.support.recorder import recorder, sqlite_recorder

__all__ = ["recorder", "sqlite_recorder"]
