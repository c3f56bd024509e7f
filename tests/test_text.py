"""Test that untrusted text becomes harmless, and that counts agree with their nouns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.text import counted, sanitize, visible


@given(st.text(st.characters(exclude_categories=())), st.integers(min_value=1, max_value=50))
def test_any_text_becomes_one_printable_line_within_the_limit(text: str, limit: int) -> None:
    shown = sanitize(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert visible(text).isprintable()


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert sanitize(text, max(len(text), 1)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("line\u2028end", r"line\u2028end"),
        ("\u202efdp.exe", r"\u202efdp.exe"),
        ("\ud800", r"\ud800"),
        ("tab\tend\n", r"tab\tend\n"),
    ],
)
def test_each_unprintable_character_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == sanitize(text, 100) == shown


def test_text_that_does_not_fit_ends_in_an_ellipsis() -> None:
    assert sanitize("abcdef", 6) == "abcdef"
    assert sanitize("abcdefg", 6) == "abcde…"


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(number, "poll") for number in (0, 1, 2)] == ["0 polls", "1 poll", "2 polls"]
    assert counted(2, "stretch", "stretches") == "2 stretches"
