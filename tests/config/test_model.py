"""Printing the loaded configuration shows no secret."""

from tests.support.configuration import Directory


def test_nothing_printable_shows_a_secret(directory: Directory) -> None:
    directory.environment["PASSWORD"] = "hu/sh"
    configuration = directory.load(
        '[database]\nurl = "postgresql://u:${PASSWORD}@h/db?sslpassword=quiet"\n'
    )
    printed = f"{configuration} {configuration!r} {configuration.accounts} {configuration.database}"
    assert "0123456789" not in printed
    assert "…cdef" in printed
    assert "hu/sh" not in printed
    assert "hu%2Fsh" not in printed
    assert "quiet" not in printed
    assert configuration.database.safe_url == "postgresql+psycopg://u:***@h/db?sslpassword=***"
    assert configuration.secrets == ("hu%2Fsh", "hu/sh", "quiet", "0123456789abcdef")
