"""How to install what is missing: the one place that knows where the distribution can be had."""

PUBLISHED = False
"""Whether `kalshi-exporter` is on the package index; docs/releasing.md says when to change it.

While it is not, nothing may tell people to install that name: anybody could register it.
"""


def install_command(extra: str) -> str:
    """Return the words that tell how to install an extra of this distribution.

    Args:
        extra: its name in pyproject.toml, such as `postgres`.
    """
    if PUBLISHED:
        return f"pip install 'kalshi-exporter[{extra}]'"
    return f"pip install '.[{extra}]' in a clone of the repository"
