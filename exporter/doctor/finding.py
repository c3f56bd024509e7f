"""What one look gave: one line, and the exit code that it stands for."""

from dataclasses import dataclass

from exporter.errors import Exit, ExporterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look gave.

    Attributes:
        subject: what was looked at.
        text: what was found; if it is wrong or doubtful, also what to do.
        exit_code: OK, or what a poll would end with.
        doubtful: it works, but will not or should not for long.
    """

    subject: str
    text: str
    exit_code: Exit = Exit.OK
    doubtful: bool = False


def failed(subject: str, error: ExporterError, fault: str | None = None) -> Finding:
    """Make a finding of an error; `fault` replaces its text."""
    text = (fault or str(error)).removeprefix(f"{subject}: ")
    return Finding(subject=subject, text=text, exit_code=error.exit_code)
