"""Test that log records are readable, one bounded line each, and free of secrets."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.logs import redaction, setup

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

logger = logging.getLogger("exporter.recording.poller")


@pytest.fixture(autouse=True)
def restore_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the logging configuration after each test."""
    monkeypatch.setattr(redaction, "_secrets", redaction._Secrets())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, own = logging.getLogger(), logging.getLogger("exporter")
    levels, handlers = (root.level, own.level), root.handlers[:]
    yield
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    root.handlers[:] = handlers


def configured(level: str = "INFO", form: str = "text") -> io.StringIO:
    stream = io.StringIO()
    setup.configure(level, form, stream)
    return stream


def only_line(stream: io.StringIO) -> str:
    written = stream.getvalue()
    assert written.endswith("\n")
    line = written[:-1]
    assert line.isprintable()
    return line


def only_object(stream: io.StringIO) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = only_line(stream)
    assert line.isascii()
    fields = json.loads(line, parse_constant=refuse)
    assert isinstance(fields, dict)
    return fields


def without_time(line: str) -> str:
    assert re.match(TIMESTAMP + " ", line)
    return line.partition(" ")[2]


# Text


def test_a_text_line_has_account_event_message_and_details() -> None:
    stream = configured()
    logger.warning(
        "the exchange failed after %d attempts",
        4,
        extra={
            "event": "poll_failed",
            "account": "main",
            "http_status": 503,
            "reason": 'said "no" = \\',
            "nothing": None,
            "empty": "",
        },
    )
    assert without_time(only_line(stream)) == (
        "WARNING main: poll_failed: the exchange failed after 4 attempts "
        r'http_status=503 reason="said \"no\" = \\" empty=""'
    )


def test_a_text_line_may_be_a_message_alone() -> None:
    stream = configured()
    logger.info("100% done")
    assert without_time(only_line(stream)) == "INFO    100% done"


def test_a_librarys_logger_is_named() -> None:
    stream = configured()
    logging.getLogger("sqlalchemy.pool").warning("Retrying")
    assert without_time(only_line(stream)) == "WARNING sqlalchemy.pool: Retrying"


def test_line_breaks_and_terminal_codes_are_spelled_out() -> None:
    stream = configured()
    logger.info("a\nb\x1b[31m\x7f\u2028", extra={"field": "c\r\nd\u202e\udc80"})
    assert only_line(stream).endswith(r"a\nb\x1b[31m\x7f\u2028 field=" + r'"c\r\nd\u202e\udc80"')


def test_a_long_message_leaves_room_for_the_facts() -> None:
    stream = configured()
    logger.info("x" * 5_000, extra={"http_status": 503, "body": "y" * 5_000})
    line = only_line(stream)
    assert len(line) <= 2_000
    assert "http_status=503" in line
    assert line.endswith("y…")


# JSON


def test_a_json_line_is_an_object_with_the_facts() -> None:
    stream = configured(form="json")
    extra = {
        "event": "poll_failed",
        "account": "größe",
        "http_status": 503,
        "share": 0.5,
        "nan": float("nan"),
        "huge": 10**400,
        "ok": False,
        "nothing": None,
        "path": Path("/x"),
        "timestamp": "not this one",
    }
    logger.warning("it failed\n", extra=extra)
    fields = only_object(stream)
    assert re.fullmatch(TIMESTAMP, fields.pop("timestamp"))
    assert list(fields)[:4] == ["level", "logger", "event", "message"]
    assert fields.pop("huge").startswith("1000")
    assert fields == {
        "level": "WARNING",
        "logger": "exporter.recording.poller",
        "event": "poll_failed",
        "message": "it failed\n",
        "account": "größe",
        "http_status": 503,
        "share": 0.5,
        "nan": "nan",
        "ok": False,
        "nothing": None,
        "path": "/x",
    }


@pytest.mark.parametrize("text", ["x", "\x00", "😀", "\udc80", "\x7f"], ids=ascii)
def test_a_long_json_line_is_cut_but_stays_an_object(text: str) -> None:
    stream = configured(form="json")
    extra = {"event": "e", **{f"f{i}": text * 5_000 for i in range(9)}}
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, text * 5_000, (), None, extra=extra
    )
    # Only our handler gets the record: pytest would send it to its workers, which reject lone
    # surrogates.
    next(each for each in logging.getLogger().handlers if isinstance(each, setup._Handler)).handle(
        record
    )
    assert len(only_line(stream)) <= 2_000
    fields = only_object(stream)
    assert fields["message"].endswith("…")
    assert fields["level"] == "INFO"


# Exceptions


def fail(error: Exception) -> None:
    raise error


def failed() -> None:
    try:
        fail(OSError(28, "No space\nleft"))
    except OSError:
        logger.exception("cannot write")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_one_line_and_its_traceback_is_for_debug(form: str) -> None:
    stream = configured("INFO", form)
    failed()
    assert "OSError: [Errno 28] No space" in only_line(stream)
    assert "Traceback" not in only_line(stream)
    stream = configured("debug", form)
    failed()
    assert "Traceback (most recent call last):" in only_line(stream)
    assert "in failed" in only_line(stream)


def test_an_exception_without_a_text_has_its_type() -> None:
    stream = configured(form="json")
    logger.error("x", exc_info=ValueError())
    assert only_object(stream)["exception"] == "ValueError"


def test_exc_info_without_an_exception_adds_nothing() -> None:
    stream = configured(form="json")
    logger.error("x", exc_info=True)  # noqa: LOG014 - the test is about this case
    assert "exception" not in only_object(stream)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_survives_values_that_cannot_be_shown(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unshowable:
        def __str__(self) -> str:
            raise RuntimeError

    # pytest's own handler refuses records that ours must survive.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stream = configured(form=form)
    logger.info("%d groups", "no number", extra={"value": Unshowable()})
    assert "%d groups" in only_line(stream)
    assert "<Unshowable>" in only_line(stream)


# Levels


def test_libraries_stay_at_warning_even_if_they_set_their_own_level() -> None:
    stream = configured("DEBUG")
    library = logging.getLogger("sqlalchemy.engine")
    level = library.level
    library.setLevel(logging.DEBUG)
    try:
        library.info("INSERT … VALUES (secret)")
        logging.getLogger("exporters").info("another package")
    finally:
        library.setLevel(level)
    assert stream.getvalue() == ""
    logger.debug("ours")
    assert "ours" in only_line(stream)


def test_records_below_the_level_are_dropped() -> None:
    stream = configured("error")
    logger.warning("no")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_and_does_not_repeat() -> None:
    first = configured()
    second = configured()
    logger.info("once")
    assert first.getvalue() == ""
    assert only_line(second)


@pytest.mark.parametrize(("level", "form"), [("LOUD", "text"), ("INFO", "xml")])
def test_an_unknown_level_or_format_is_refused_and_changes_nothing(level: str, form: str) -> None:
    stream = configured()
    with pytest.raises(ValueError, match=r"LOUD|xml"):
        setup.configure(level, form)
    logger.info("still here")
    assert only_line(stream)


# Secrets


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("secret", ["pa/ss@w%rd", "p\"\\'q", "пароль", "with\nline", "x" * 400])
def test_a_protected_text_is_in_no_line(form: str, secret: str) -> None:
    from urllib.parse import quote

    redaction.protect(secret)
    redaction.protect(secret[:5])
    forms = [secret, quote(secret, safe=""), f"{secret!r}"]
    for text in forms:
        stream = configured("DEBUG", form)
        try:
            fail(ValueError(text))
        except ValueError:
            logger.exception("a %s", text, extra={"event": text, "account": text, "field": text})
        line = only_line(stream)
        assert "***" in line
        for hidden in forms:
            assert hidden[:5] not in line
            assert json.dumps(hidden)[1:-1] not in line


def test_a_secret_is_not_cut_in_half_before_it_is_hidden() -> None:
    redaction.protect("secret-key-id")
    stream = configured()
    logger.info("x", extra={"field": "y" * 294 + "secret-key-id"})
    assert "sec" not in only_line(stream)


def test_texts_too_short_to_be_secrets_are_not_redacted() -> None:
    redaction.protect("")
    redaction.protect("abc")
    stream = configured()
    logger.info("abc")
    assert "abc" in only_line(stream)


# Any line

VALUES = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.booleans())
# logging rejects a field that would overwrite one of its own.
OWN = frozenset(vars(logging.makeLogRecord({})))
NAMES = st.text(max_size=9).filter(lambda name: name not in OWN)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.text(), fields=FIELDS, form=st.sampled_from(["text", "json"]))
def test_any_record_is_one_bounded_line_without_control_characters(
    message: str, fields: dict[str, Any], form: str
) -> None:
    stream = configured("DEBUG", form)
    record = logging.makeLogRecord({**fields, "name": "exporter", "levelno": 20, "msg": message})
    logging.getLogger("exporter").handle(record)
    assert len(only_line(stream)) <= 2_000
    if form == "json":
        assert only_object(stream)["logger"] == "exporter"


# The process

PROGRAM = """
import logging, sys
from exporter.logs import setup
setup.configure("DEBUG", sys.argv[1])
for level in (10, 20, 30, 40, 50):
    logging.getLogger("exporter.x").log(level, "line\\n%d \\u00e4", level)
print("done")
"""


def run(form: str, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {form} {shell}', sys.executable, PROGRAM],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **environment},
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def test_lines_go_to_stderr_whatever_its_encoding() -> None:
    process = run("text", "", PYTHONIOENCODING="ascii")
    assert process.stdout == "done\n"
    lines = process.stderr.splitlines()
    assert [without_time(line).split()[0] for line in lines] == [
        "DEBUG",
        "INFO",
        "WARNING",
        "ERROR",
        "CRITICAL",
    ]
    assert lines[0].endswith(r"line\n10 \xe4")


def test_a_closed_or_full_stderr_does_no_harm() -> None:
    assert run("text", "2>&-").stdout == "done\n"
    assert run("json", "2>&-").stdout == "done\n"
    if Path("/dev/full").exists():
        assert run("text", "2>/dev/full").stdout == "done\n"


def test_a_pipe_without_a_reader_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        setup.configure("INFO", "text", stream)
        logger.info("nobody reads this")


def test_a_stream_that_is_closed_later_does_no_harm(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        setup.configure("INFO", "text", stream)
    logger.info("nobody reads this")
    assert (tmp_path / "log").read_text(encoding="utf-8") == ""


def test_the_journal_gets_priorities_and_no_timestamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        setup.configure("DEBUG", "text", stream)
        for level in (10, 20, 30, 40, 50):
            logger.log(level, "line", extra={"account": "main"})
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines == [f"<{priority}>main: line" for priority in (7, 6, 4, 3, 3)]


@pytest.mark.parametrize("journal", ["1:1", "nonsense"])
def test_a_journal_stream_that_is_not_ours_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal)
    with (tmp_path / "file").open("w+", encoding="utf-8") as stream:
        setup.configure("INFO", "text", stream)
        logger.info("line")
        stream.seek(0)
        without_time(stream.read())
    stream_without_file = configured()
    logger.info("line")
    without_time(only_line(stream_without_file))


def test_the_secrets_of_thousands_of_accounts_cost_little() -> None:
    stream = configured()
    secrets = [str(uuid.UUID(int=number * 2**100 + number)) for number in range(5_000)]
    began = time.process_time()
    for secret in secrets:
        redaction.protect(secret)
    for secret in secrets[:200]:
        logger.info("the key %s of the account", secret, extra={"event": "x", "key": secret})
    # A single regular expression that joins all secrets would take minutes.
    assert time.process_time() - began < 2
    assert stream.getvalue().count("the key *** of the account key=***") == 200
