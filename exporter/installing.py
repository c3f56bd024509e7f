"""Say how to install a missing extra; only this module knows where the distribution is."""

PUBLISHED = False
"""Whether `kalshi-exporter` is on the package index; docs/releasing.md says when to change it.

While it is not, nothing may tell people to install that name: anybody could register it.
"""


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this distribution, for a message.

    Args:
        extra: its name in pyproject.toml, such as `postgres`.
    """
    if PUBLISHED:
        return f"pip install 'kalshi-exporter[{extra}]'"
    return f"pip install '.[{extra}]' in a clone of the repository"
