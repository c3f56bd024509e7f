"""The shipped example explains every key, and loads once it is filled in."""

import re
import tomllib
from pathlib import Path

from exporter.config.keys import POLL
from exporter.config.load import load
from exporter.config.values import KEY_ID_PLACEHOLDER
from tests.support.configuration import Directory, described_keys

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def filled_in() -> str:
    """Return the example with its placeholder replaced by a key id."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert KEY_ID_PLACEHOLDER in text
    return text.replace(KEY_ID_PLACEHOLDER, "0123456789abcdef")


def test_the_example_loads_once_it_is_filled_in(tmp_path: Path, directory: Directory) -> None:
    (tmp_path / "config.toml").write_text(filled_in(), encoding="utf-8")
    configuration = load(tmp_path / "config.toml", {})
    defaults = directory.load("")
    assert configuration.database == defaults.database
    assert configuration.spool == defaults.spool
    assert configuration.log == defaults.log
    assert configuration.metrics is None
    assert configuration.accounts[0].poll == defaults.accounts[0].poll


def test_the_example_explains_every_key_with_its_default() -> None:
    # Sections and keys that the example comments out are switched on here, so that TOML reads them.
    lines = [
        line.removeprefix("# ") if re.match(r"# (\[\w+\]|\w+ = \S+)$", line) else line
        for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
    ]
    document = tomllib.loads("\n".join(line for line in lines if not line.startswith("base_url")))
    document["accounts"] = document["accounts"][0]
    for section, key in described_keys():
        where = next(i for i, line in enumerate(lines) if line.strip("[]") == section)
        at = next(i for i, line in enumerate(lines[where:], where) if line.startswith(key.name))
        assert lines[at - 1].startswith("# "), f"{section}.{key.name} is not explained"
        if key.default is not None:
            assert document[section][key.name] == key.default
            value = re.escape(lines[at].split(" = ")[1])
            start = max(i for i in range(at) if not lines[i].startswith("#"))
            assert re.search(f"Default: {value}$", "\n".join(lines[start:at]), re.MULTILINE)
    assert {key.name for key in POLL} <= set(re.findall(r"\w+", "\n".join(lines[-6:])))


def test_the_example_with_everything_on_loads(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (\[\w+\]|\w+ = \S+)$", r"\1", filled_in())
    file = tmp_path / "config.toml"
    file.write_text(text.replace('environment = "production"\n', ""), encoding="utf-8")
    configuration = load(file, {})
    assert configuration.metrics is not None
    account = configuration.accounts[0]
    assert (account.subaccount, account.stream) == (0, False)
    assert account.stream_url == "wss://proxy.example/trade-api/ws/v2"
    assert configuration.http.proxy == "http://proxy.example:3128"
    assert account.poll.interval == 10.0
