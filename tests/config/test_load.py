"""Loading a whole configuration file: defaults, overrides, paths, and files that cannot be read."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config.keys import SECTIONS
from exporter.config.load import load
from exporter.errors import ConfigurationError
from tests.support.configuration import ACCOUNT_TOML, Directory, described_keys


def test_the_smallest_configuration_has_the_defaults(directory: Directory) -> None:
    configuration = directory.load("")
    assert configuration.path == directory.path / "config.toml"
    assert configuration.database.url == f"sqlite:///{directory.path}/order_groups.db"
    assert configuration.database.auto_migrate is True
    assert configuration.spool.directory == directory.path / "spool"
    assert configuration.spool.max_size == 256 * 2**20
    assert (configuration.log.level, configuration.log.format) == ("INFO", "text")
    assert configuration.metrics is None
    (account,) = configuration.accounts
    assert account.base_url == "https://external-api.demo.kalshi.co/trade-api/v2"
    assert account.private_key_file == directory.path / "kalshi.pem"
    assert account.private_key_passphrase_file is None
    assert account.subaccount is None
    assert account.exchange == "predictions"
    assert (configuration.stream.enabled, account.stream, account.stream_url) == (True, True, None)
    assert configuration.http.proxy is None
    assert (account.poll.interval, account.poll.deadline) == (60.0, 20.0)
    assert (account.poll.max_attempts, account.poll.confirm_removal) == (4, 2)
    assert account.poll.max_response_size == 64 * 2**20


def test_an_account_overrides_the_poll_section(directory: Directory) -> None:
    second = ACCOUNT_TOML.replace("main", "fast") + 'interval = "250ms"\nmax_attempts = 1\n'
    configuration = directory.load('[poll]\ninterval = "1m30s"\n', account=ACCOUNT_TOML + second)
    main, fast = (account.poll for account in configuration.accounts)
    assert (main.interval, main.max_attempts) == (90.0, 4)
    assert (fast.interval, fast.max_attempts) == (0.25, 1)


def test_an_account_overrides_whether_its_stream_is_recorded(directory: Directory) -> None:
    accounts = "".join(
        ACCOUNT_TOML.replace("main", f"account {number}") + more
        for number, more in enumerate(["", "stream = true\n", "stream = false\n"])
    )
    for enabled, expected in ((True, [True, True, False]), (False, [False, True, False])):
        text = f"[stream]\nenabled = {str(enabled).lower()}\n"
        configuration = directory.load(text, account=accounts)
        assert configuration.stream.enabled is enabled
        assert [account.stream for account in configuration.accounts] == expected


@pytest.mark.parametrize("subaccount", [0, 63, 64, 10**20])
def test_a_subaccount_has_no_upper_bound(directory: Directory, subaccount: int) -> None:
    account = f"{ACCOUNT_TOML}subaccount = {subaccount}\n"
    assert directory.load("", account=account).accounts[0].subaccount == subaccount


def test_other_values_than_the_defaults_are_read(directory: Directory) -> None:
    account = """
[[accounts]]
name = "Größe 1"
base_url = "http://127.0.0.1:8080/trade-api/v2/"
key_id = "${KEY}"
private_key_file = "/keys/kalshi.pem"
private_key_passphrase_file = "../phrase"
subaccount = 0
"""
    directory.environment["KEY"] = "from-the-environment"
    configuration = directory.load(
        '\ufeff[log]\nlevel = "debug"\nformat = "JSON"\n[metrics]\nlisten = "[::1]:9000"\n'
        '[database]\nauto_migrate = false\nurl = "sqlite+pysqlite:////var/lib/x.db"\n',
        account=account,
    )
    assert (configuration.log.level, configuration.log.format) == ("DEBUG", "json")
    assert configuration.metrics is not None
    assert (configuration.metrics.host, configuration.metrics.port) == ("::1", 9000)
    assert configuration.database.url == "sqlite+pysqlite:////var/lib/x.db"
    assert configuration.database.auto_migrate is False
    (entry,) = configuration.accounts
    assert entry.name == "Größe 1"
    assert entry.base_url == "http://127.0.0.1:8080/trade-api/v2"
    assert entry.environment is None
    assert entry.key_id == "from-the-environment"
    assert entry.private_key_file == Path("/keys/kalshi.pem")
    assert entry.private_key_passphrase_file == directory.path / "../phrase"
    assert entry.subaccount == 0


def test_an_empty_metrics_section_turns_metrics_on(directory: Directory) -> None:
    metrics = directory.load("[metrics]\n").metrics
    assert metrics is not None
    assert (metrics.host, metrics.port) == ("127.0.0.1", 9464)


def test_relative_paths_are_relative_to_the_file_not_the_working_directory(
    directory: Directory, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.load("")
    monkeypatch.chdir(directory.path)
    relative = load(Path("config.toml"), {})
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert relative == load(directory.path / "config.toml", {})


def test_paths_in_a_linked_configuration_are_relative_to_the_link(
    directory: Directory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory.load("")
    link = tmp_path_factory.mktemp("mounted") / "config.toml"
    link.symlink_to(directory.path / "config.toml")
    assert load(link, {}).spool.directory == link.parent / "spool"


def load_fault(path: Path) -> str:
    """Load a file that must have exactly one fault, and return the fault."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    (fault,) = caught.value.faults
    assert fault.isprintable()
    assert fault.startswith(f"{path}: ")
    return fault


def test_a_missing_file_suggests_init(tmp_path: Path) -> None:
    assert "kalshi-exporter init" in load_fault(tmp_path / "none.toml")


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in load_fault(tmp_path)
    file = tmp_path / "config.toml"
    file.touch()
    assert "cannot be read: Not a directory" in load_fault(file / "x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = '\xff'", "is not UTF-8 text (byte 5)"),
        (b"[poll]\ninterval = \n", "(at line 2, column 12)"),
        (b"a = 1\na = 2\n", "(at line 2, column 6)"),
        (b"a = " + b"[" * 20_000, "not valid TOML"),
        (b"a = " + b"9" * 5_000, "not valid TOML"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    assert reason in load_fault(file)


VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.text(),
    st.sampled_from(
        ["60s", "64MiB", "info", "json", "demo", "sqlite:///x", "postgresql://u:p@h", "${A}",
         "https://x", "[::1]:1", "a:1"]
    ),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
NAMES = st.sampled_from([key.name for _section, key in described_keys()]) | st.text(max_size=9)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections=st.dictionaries(st.sampled_from([*SECTIONS, "x"]), TABLES | VALUES, max_size=4),
    accounts=st.lists(TABLES, max_size=3),
)
def test_any_toml_is_loaded_or_refused_with_a_line_for_each_fault(
    directory: Directory, sections: dict[str, object], accounts: list[dict[str, object]]
) -> None:
    document = {**sections, "accounts": accounts}
    file = directory.path / "config.toml"
    file.write_text(
        "".join(f"{name} = {as_toml(value)}\n" for name, value in document.items()),
        encoding="utf-8",
    )
    try:
        load(file, {"A": "b"})
    except ConfigurationError as error:
        faults = error.faults
    else:
        return
    assert faults
    assert all(fault.isprintable() and "not valid TOML" not in fault for fault in faults)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08X}" for character in value) + '"'
    return json.dumps(value)
