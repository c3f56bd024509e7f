"""Moves a module's clock by hand, and shifts the clocks of a running process."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def make_elapsed_by_hand(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], None]:
    """Stop a module's `elapsed`, and return a function that lets seconds pass on it."""
    at = [1_000.0]
    monkeypatch.setattr(module, "elapsed", lambda: at[0])

    def wait(seconds: float) -> None:
        at[0] += seconds

    return wait


class Clocks:
    """The clocks of any process that is started with `environment`; they need Linux."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            pytest.skip("SKIPPED LOUDLY: setting a daemon's clocks needs Linux and a C compiler")
        source, library = Path(__file__).with_name("clocks.c"), directory / "clocks.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._shifts = directory / "shifts"
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCKS": str(self._shifts)}
        self.shift()

    def shift(self, *, wall: int = 0, asleep: int = 0) -> None:
        """Shift the wall clock by `wall` seconds, and pretend a sleep of `asleep` seconds."""
        new = self._shifts.with_suffix(".new")
        new.write_text(f"{wall} {asleep}")
        new.replace(self._shifts)
