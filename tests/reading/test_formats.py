"""Test the errors of the export formats; `test_export.py` tests their output."""

import sys
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import ConfigurationError
from exporter.model import OrderGroup
from exporter.reading.export import export
from exporter.reading.output import OutputError


def test_parquet_without_pyarrow_says_what_to_install(
    sqlite_recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[parquet\]'"):
        export(sqlite_recorder.url, "polls", file_format="parquet", output=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_parquet_never_rounds(sqlite_recorder: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    sqlite_recorder.ok(0, [OrderGroup("a", True, "0.12345678901")])
    with pytest.raises(OutputError, match="contracts_limit has a value with too many digits"):
        export(sqlite_recorder.url, "groups", file_format="parquet", output=tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()
