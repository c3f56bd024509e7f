"""Test that importing any module changes no global state of the process."""

import subprocess
import sys
from pathlib import Path

import exporter

_PACKAGE = Path(exporter.__file__).parent

_IMPORT_EACH = """
import importlib, logging, os, signal, sys, threading, warnings

def loggers():
    known = {"": logging.getLogger()} | logging.Logger.manager.loggerDict
    return {
        name: (each.level, each.disabled, each.propagate, each.handlers[:], each.filters[:])
        for name, each in known.items()
        if isinstance(each, logging.Logger) and name.split(".")[0] in {"", "exporter"}
    }

def shared():
    return {
        "log level and handlers": loggers()[""],
        "disabled levels": logging.root.manager.disable,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "umask": (lambda mask: (os.umask(mask), mask)[1])(os.umask(0o077)),
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "threads": threading.enumerate(),
        "filters of warnings": warnings.filters[:],
    }

# Libraries may change global state, so everything else that modules import comes first.
import alembic.command, apscheduler.schedulers.background, click, cryptography.x509, requests
import sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite, websockets.asyncio.client
import asyncio, importlib.metadata, prometheus_client.exposition, psycopg, pyarrow

before = shared()
for name in sys.argv[1:]:
    importlib.import_module(name)
    for what, value in shared().items():
        assert value == before[what], f"{name} changes the {what}: {before[what]} {value}"
for name, (level, disabled, propagate, handlers, filters) in loggers().items():
    if name:
        assert level == 0 and not disabled and propagate, f"the logger {name} was set up"
        assert not handlers and not filters, f"the logger {name} was set up"

from exporter.history.schema import metadata
for table in metadata.tables.values():
    assert table.comment is None, f"{table} was described on import"
    assert all(column.comment is None for column in table.columns), f"{table} was described"
print(len(sys.argv) - 1)
"""


def _modules() -> list[str]:
    names = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":  # importing it runs the command
            names.append(".".join(part for part in parts if part != "__init__"))
    return names


def test_importing_any_module_has_no_effect() -> None:
    names = _modules()
    # Both orders count, because one module may hide the effect of a later one.
    for order in (names, names[::-1]):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT_EACH, *order],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        assert int(done.stdout) == len(names) > 100
