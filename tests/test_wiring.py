"""What the accounts of one process share."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter import wiring
from exporter.config.load import load
from exporter.kalshi.keys import SigningKey, load_private_key
from tests.support.keys import pem

if TYPE_CHECKING:
    from tests.conftest import KeyPair, WriteConfig


def test_each_key_file_is_loaded_once_however_many_accounts_use_it(
    monkeypatch: pytest.MonkeyPatch,
    write_config: "WriteConfig",
    key_pair: "KeyPair",
    tmp_path: Path,
) -> None:
    copy = tmp_path / "copy.pem"
    copy.touch(mode=0o600)
    copy.write_bytes(pem(key_pair.private_key))
    loaded = []

    def counted(path: Path, passphrase: bytes | None) -> SigningKey:
        loaded.append(path)
        return load_private_key(path, passphrase)

    monkeypatch.setattr(wiring, "load_private_key", counted)
    others = [{"name": f"of {number}", "subaccount": number} for number in range(3)]
    configuration = load(
        write_config(
            base_url="http://127.0.0.1:1/trade-api/v2",
            more_accounts=[*others, {"name": "copy", "private_key_file": str(copy)}],
        )
    )
    with wiring.recorder_of(
        configuration, configuration.accounts, stop=threading.Event()
    ) as recorder:
        assert len(recorder.pollers) == 5
    assert loaded == [key_pair.private_key_file, copy]
