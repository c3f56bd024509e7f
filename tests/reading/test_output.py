"""Test that output files are complete or absent, and that a closed pipe is no error."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.reading.output import OutputError, opened


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return an empty directory."""
    directory = tmp_path / "answers"
    directory.mkdir()
    return directory


def write(path: Path, content: bytes = b"after") -> None:
    with opened(path) as sink:
        sink.write(content)


def test_a_new_file_has_the_mode_that_the_umask_gives(directory: Path) -> None:
    before = os.umask(0o027)
    try:
        write(directory / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((directory / "new").stat().st_mode) == 0o640


def test_a_replaced_file_keeps_its_mode_and_readers_their_copy(directory: Path) -> None:
    path = directory / "old"
    path.write_bytes(b"before")
    path.chmod(0o604)
    with path.open("rb") as reader, opened(path) as sink:
        sink.write(b"after")
        sink.flush()
        assert path.read_bytes() == reader.read() == b"before"
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert list(directory.iterdir()) == [path]


def test_a_link_stays_a_link(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    (directory / "link").symlink_to(target)
    write(directory / "link")
    assert (directory / "link").is_symlink()
    assert target.read_bytes() == b"after"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write(Path(os.devnull))
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no"), OSError(28, "No space")])
def test_an_error_leaves_no_partial_file(directory: Path, error: BaseException) -> None:
    def fail() -> None:
        with opened(directory / "x") as sink:
            sink.write(b"half")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError, OutputError)):
        fail()
    assert list(directory.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(directory: Path) -> None:
    with pytest.raises(OutputError, match="absent/x: No such file or directory"):
        write(directory / "absent" / "x")
    with pytest.raises(OutputError, match="answers: Is a directory"):
        write(directory)
    assert OutputError.exit_code == 74


def test_a_named_pipe_is_written_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("None", 'Path("/dev/stdout")')],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr, len(done.stdout)) == (0, b"", 15_000_000)


WAITING = """
import sys, time
from pathlib import Path
from exporter.reading.{module} import {name}
with {name}(Path(sys.argv[1]){more}) as place:
    {work}
    print("begun", flush=True)
    time.sleep(60)
"""
FILE = WAITING.format(
    module="output", name="opened", more="", work='place.write(b"half"); place.flush()'
)
DATASET = WAITING.format(
    module="dataset", name="staged", more=", 'polls'", work='(place / "x.part").touch()'
)


@pytest.mark.parametrize("program", [FILE, DATASET], ids=["file", "dataset"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_partial_output(
    directory: Path, program: str, number: signal.Signals
) -> None:
    place = directory / "x" if program == FILE else directory
    with subprocess.Popen(
        [sys.executable, "-c", program, place], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert list(directory.iterdir()) != []
        process.send_signal(number)
        code = process.wait(30)
    assert code == (-number if number == signal.SIGINT else 128 + number)
    assert list(directory.iterdir()) == []


PROGRAM = """
from pathlib import Path
from exporter.reading.output import opened
with opened(None) as sink:
    for _ in range(1000):
        sink.write(b"a line of text\\n" * 1000)
"""


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" | head -n 1', sys.executable, PROGRAM],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a line of text\n", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "OutputError: cannot write to standard output: No space left" in done.stderr
