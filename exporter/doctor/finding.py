"""The result of one check: one line, and the exit code that it stands for."""

from dataclasses import dataclass

from exporter.errors import Exit, ExporterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: what was checked.
        text: what was found; if it is wrong or doubtful, also what to do.
        exit_code: OK, or the code with which a poll would end.
        doubtful: whether it works now, but may soon fail or is unsafe.
    """

    subject: str
    text: str
    exit_code: Exit = Exit.OK
    doubtful: bool = False


def failed(subject: str, error: ExporterError, fault: str | None = None) -> Finding:
    """Return an error as a finding; `fault` replaces its text."""
    text = (fault or str(error)).removeprefix(f"{subject}: ")
    return Finding(subject=subject, text=text, exit_code=error.exit_code)
