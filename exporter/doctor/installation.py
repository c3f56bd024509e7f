"""Check that no other distribution installed a package of the same name."""

from importlib.metadata import packages_distributions

from exporter.doctor.finding import Finding
from exporter.errors import Exit

_PACKAGE, _DISTRIBUTION = "exporter", "kalshi-exporter"


def check_installation() -> Finding | None:
    """Look for another distribution with a package of this name.

    The two overwrite each other's files, so that either may run the other's code.

    Returns:
        The fault and its remedy; None if there is no other distribution.
    """
    others = set(packages_distributions().get(_PACKAGE, ())) - {_DISTRIBUTION}
    if not others:
        return None
    return Finding(
        subject="installation",
        text=f"{', '.join(sorted(others))} has a package named {_PACKAGE} too, in the same place:"
        f" install {_DISTRIBUTION} alone in a virtual environment of its own",
        exit_code=Exit.CONFIGURATION,
    )
