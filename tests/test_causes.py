"""Test that every cause of a gap has one sentence, which everything that shows causes uses."""

from typing import get_args

from exporter import causes
from exporter.causes import POLL_GAP_CAUSES, STREAM_GAP_CAUSES, explain
from exporter.errors import Outcome
from exporter.history import dictionary
from exporter.report.coverage import BEFORE
from exporter.report.summary import KINDS


def test_every_cause_has_a_readable_sentence() -> None:
    assert set(POLL_GAP_CAUSES) == set(get_args(causes.PollGapCause))
    assert set(STREAM_GAP_CAUSES) == set(get_args(causes.StreamGapCause))
    for cause, sentence in [*POLL_GAP_CAUSES.items(), *STREAM_GAP_CAUSES.items()]:
        assert explain(cause).endswith(f"({cause})")
        assert sentence[0].islower()
        assert not sentence.endswith(".")


def test_every_failure_of_a_poll_is_a_cause() -> None:
    assert set(get_args(Outcome)) - {"ok"} == set(POLL_GAP_CAUSES) - {"not_running", "not_kept"}


def test_polls_and_the_stream_explain_a_shared_cause_alike() -> None:
    for cause in POLL_GAP_CAUSES.keys() & STREAM_GAP_CAUSES.keys():
        assert explain(cause) == f"{POLL_GAP_CAUSES[cause]} ({cause})"
    assert explain("of_a_newer_version") == "of_a_newer_version"


def test_the_dictionary_explains_every_cause_of_a_gap() -> None:
    for view, causes_of_view in (
        ("coverage_gaps", POLL_GAP_CAUSES),
        ("stream_gaps", STREAM_GAP_CAUSES),
    ):
        [line] = [line for line in dictionary.lines(view) if line.column == "cause"]
        for cause, sentence in causes_of_view.items():
            assert f"`{cause}`: {sentence}" in line.meaning


def test_the_report_draws_each_cause_in_one_way() -> None:
    drawn = [cause for causes in KINDS.values() for cause in causes]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {*POLL_GAP_CAUSES, *STREAM_GAP_CAUSES, BEFORE}
