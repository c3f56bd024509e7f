"""The remedies for database errors name the command or the setting that helps."""

import getpass

import pytest
from sqlalchemy.engine import make_url

from exporter.database.remedies import remedy_of_connection, remedy_of_statement


@pytest.mark.parametrize(
    ("url", "role"),
    [
        ("postgresql+psycopg://lee@/kalshi", "lee"),
        ("postgresql+psycopg:///kalshi?user=kim", "kim"),
        ("postgresql+psycopg://Lee%20Kim@/kalshi", '"Lee Kim"'),
        ("postgresql+psycopg:///kalshi", "the role"),
    ],
)
def test_a_remedy_names_the_role_even_if_the_system_knows_no_user(
    monkeypatch: pytest.MonkeyPatch, url: str, role: str
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.delenv("PGUSER", raising=False)
    said = "permission denied for table polls"
    remedy = remedy_of_statement(said, "42501", make_url(url), write=True)
    assert remedy == f"GRANT SELECT, INSERT, UPDATE, DELETE ON polls TO {role}"


def test_the_remedy_for_a_view_grants_only_select() -> None:
    url = make_url("postgresql+psycopg://lee@/kalshi")
    remedy = remedy_of_statement(
        "permission denied for view coverage_gaps", "42501", url, write=True
    )
    assert remedy == "GRANT SELECT ON coverage_gaps TO lee"


def test_the_remedy_for_an_unknown_system_user_is_to_name_one() -> None:
    url = make_url("postgresql+psycopg:///kalshi")
    remedy = remedy_of_connection("connection is bad: local user with ID 7 does not exist", url)
    assert remedy is not None
    assert "name the user in database.url" in remedy
