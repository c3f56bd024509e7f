"""Find files that ship with the package: in it when installed, beside it in a checkout."""

from pathlib import Path


def shipped(name: str) -> Path:
    """Return the path of a shipped file or directory, such as `deploy`."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.exists() else package.parent / name
