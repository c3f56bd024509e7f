"""Durations and sizes are parsed, and everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.values import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("60s", 60.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1m30s", 90.0),
        ("1d12h", 129_600.0),
        ("0s", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "60", "s", "-1s", "1 s", " 1s", "1s ", "1S", "30s1m", "1s1s", "1y", "1e3s", ".5s", "٣s",
     "nans", "infs", "1s\n", "101w" * 2, "999999999w"],
)  # fmt: skip
def test_other_texts_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@given(st.integers(0, 36_525 * 86_400_000))
def test_a_duration_in_all_its_units_is_parsed(milliseconds: int) -> None:
    text, rest = "", milliseconds
    for unit, scale in (
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ):
        count, rest = divmod(rest, scale)
        text += f"{count}{unit}" if count else ""
    assert parse_duration(text or "0s") == pytest.approx(milliseconds / 1000, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096B", 4096),
        ("512KiB", 524_288),
        ("64MiB", 67_108_864),
        ("1GiB", 2**30),
        ("100MB", 100_000_000),
        ("3kB", 3000),
        ("3KB", 3000),
        ("2GB", 2_000_000_000),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "64", "MiB", "64 MiB", "64mib", "1.5GiB", "-1B", "1TiB\n"])
def test_other_texts_are_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@given(st.integers(0, 10**12 - 1), st.sampled_from([("B", 1), ("KiB", 2**10), ("GB", 10**9)]))
def test_any_size_is_parsed(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]
