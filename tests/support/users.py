"""Run as a user whom file permissions bind: root may read and write everything."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Run the block as a user other than root, and yield a directory that belongs to that user."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="exporter-unprivileged-") as name:
        if root:
            os.chown(name, _NOBODY, _NOBODY)
            os.seteuid(_NOBODY)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
