"""Why a file cannot be used: each cause is named with its remedy."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.permissions import (
    explain_directory,
    explain_file,
    explain_place,
    is_missing,
    real_path,
)
from tests.support.users import unprivileged


def test_a_file_that_can_be_used_needs_no_explanation(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert explain_file(path, write=True) is None
    assert explain_directory(tmp_path, write=True) is None
    assert explain_place(tmp_path / "to" / "be" / "created") is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _path: None, "{} does not exist"),
        (Path.mkdir, "{} is a directory: name a file in it"),
        (os.mkfifo, "{} is not a regular file: name another"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    path = tmp_path / "file"
    make(path)
    assert explain_file(path, write=False) == said.format(path)


def test_the_first_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    said = f"the directory {gone} does not exist: create it, or correct the path"
    assert explain_file(gone / "further" / "file", write=False) == said
    assert explain_directory(gone / "further", write=True) == said


@pytest.mark.parametrize("explain", [explain_place, lambda it: explain_directory(it, write=True)])
def test_a_file_in_place_of_a_directory_is_named(
    tmp_path: Path, explain: Callable[[Path], str | None]
) -> None:
    path = tmp_path / "file"
    path.touch()
    assert explain(path) == f"{path} is not a directory: correct the path"


@pytest.mark.parametrize(
    ("mode", "write", "verb"), [(0o200, False, "read"), (0o400, True, "written")]
)
def test_a_mode_that_forbids_it_is_shown_with_the_command_that_allows_it(
    mode: int, write: bool, verb: str
) -> None:
    with unprivileged() as own:
        path = own / "file"
        path.touch(mode)
        said = explain_file(path, write=write)
    assert said is not None
    assert f"{path} may not be {verb} by " in said
    assert said.endswith(f"and its mode is {mode:04o}: chmod u+rw {path}")


def test_a_file_of_another_user_names_that_user() -> None:
    with unprivileged():
        said = explain_file(Path("/etc/passwd"), write=True)
    assert said is not None
    assert "it belongs to root, mode " in said
    assert said.endswith("or run the exporter as root")


def test_missing_means_that_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert not is_missing(tmp_path / "file")
    for name in ("gone", "dangling", "file/below"):
        assert is_missing(tmp_path / name)


def test_a_loop_of_links_has_a_path_all_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    assert real_path(one).parent == tmp_path.resolve()
