"""The configuration: what is read, what is refused and how it says so."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from exporter.config.keys import ACCOUNT, POLL, SECTIONS, Key
from exporter.config.load import load
from exporter.config.model import Configuration
from exporter.config.urls import secrets_of, without_secrets
from exporter.config.values import KEY_ID_PLACEHOLDER, parse_duration, parse_size
from exporter.errors import ConfigurationError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

ACCOUNT_TOML = """
[[accounts]]
name = "main"
environment = "demo"
key_id = "0123456789abcdef"
private_key_file = "kalshi.pem"
"""


class Directory:
    """A directory with a configuration in it, and an environment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: dict[str, str] = {}

    def load(self, text: str, *, account: str = ACCOUNT_TOML) -> Configuration:
        """What this text and these accounts say."""
        file = self.path / "config.toml"
        file.write_text(text + account, encoding="utf-8")
        return load(file, self.environment)

    def faults(self, text: str, *, account: str = ACCOUNT_TOML) -> list[str]:
        """What is wrong with them, each on one line, without the file's path."""
        with pytest.raises(ConfigurationError) as caught:
            self.load(text, account=account)
        faults = caught.value.faults
        assert all(fault.isprintable() for fault in faults)
        start = f"{self.path / 'config.toml'}:"
        assert all(fault.startswith(start) for fault in faults)
        return [fault.removeprefix(start) for fault in faults]

    def fault(self, text: str, *, account: str = ACCOUNT_TOML) -> str:
        """The only thing that is wrong with them."""
        (fault,) = self.faults(text, account=account)
        return fault


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def described_keys() -> Iterator[tuple[str, Key]]:
    for section, keys in SECTIONS.items():
        for key in keys:
            yield section, key
    for key in ACCOUNT:
        yield "accounts", key


# What is read


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


def test_an_account_overrides_whether_it_is_listened_to(directory: Directory) -> None:
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
def test_a_subaccount_has_no_bound_of_ours(directory: Directory, subaccount: int) -> None:
    account = f"{ACCOUNT_TOML}subaccount = {subaccount}\n"
    assert directory.load("", account=account).accounts[0].subaccount == subaccount


def test_everything_else_is_read(directory: Directory) -> None:
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


def test_relative_paths_start_from_the_file_and_not_from_where_one_is(
    directory: Directory, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.load("")
    monkeypatch.chdir(directory.path)
    relative = load(Path("config.toml"), {})
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert relative == load(directory.path / "config.toml", {})


def test_a_linked_configuration_keeps_the_directory_of_the_link(
    directory: Directory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory.load("")
    link = tmp_path_factory.mktemp("mounted") / "config.toml"
    link.symlink_to(directory.path / "config.toml")
    assert load(link, {}).spool.directory == link.parent / "spool"


# The example


def filled_in() -> str:
    """The example with a key's id."""
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
    # Sections and keys that are off are on in this text: a commented line that is TOML.
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


# Faults


# The key that is written with an escape is not found in the text: it has its section's line.
ALL_FAULTS = r"""
1: databse: unknown key, did you mean "database"?
3: poll.interval = 60: must be a duration with its unit from "100ms" to "1d", such as "60s" \
or "1m30s" (how often an account is polled)
4: poll.max_attempts = true: must be a whole number from 1 to 10 (how often one request is \
tried within the deadline)
5: log.'a\nb': unknown key, known here are level, format
6: log.level = 'loud': must be "DEBUG" or "INFO" or "WARNING" or "ERROR" (the least important \
lines that are logged)
7: log.interval: unknown key, did you mean "interval" in [poll]?
10: accounts[0].name = ' a': must be 1 to 64 visible characters without blanks at either end \
(what the account is called in the database, for good)
14: accounts[1].key_id: is missing (the id that Kalshi shows beside the API key)
14: accounts[1].private_key_file: is missing (the private key that Kalshi gave once, as a PEM file)
14: accounts[1]: must have one of environment and base_url, neither is set
16: accounts[1].intervall: unknown key, did you mean "interval"? (how often an account is polled)
17: accounts[1].subaccount = -1: must be a whole number, 0 or larger (the one subaccount to poll, \
absent for all)
""".replace("\\\n", "").strip()


def test_all_faults_come_at_once_in_order_with_lines_meanings_and_nearest_keys(
    directory: Directory,
) -> None:
    text = """\
[databse]
[poll]
interval = 60
max_attempts = true
[log]
level = "loud"
interval = "5s"
"a\\nb" = 1
"""
    account = """\
[[accounts]]
name = " a"
environment = "demo"
key_id = "k"
private_key_file = "k.pem"
[[accounts]]
name = "b"
intervall = "5s"
subaccount = -1
"""
    assert directory.faults(text, account=account) == ALL_FAULTS.split("\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("poll = 3", "poll: must be a table"),
        ("[[poll]]", "poll: must be a table"),
        ("[poll]\ninterval = '60'", "unit"),
        ("[poll]\ninterval = '99ms'", '"100ms" to "1d"'),
        ("[poll]\ninterval = '2d'", '"100ms" to "1d"'),
        ("[poll]\ninterval = 60.5", "poll.interval = 60.5: must be a duration"),
        ("[poll]\ninterval = nan", "poll.interval = nan: must be a duration"),
        ("[poll]\ninterval = ['60s']", "poll.interval = an array: must be"),
        ("[poll]\ninterval = {a = 1}", "poll.interval = a table: must be"),
        ("[poll]\ninterval = 2026-01-01", "poll.interval = a date or time: must be"),
        ('[poll]\ninterval = "60s\\n"', "line breaks"),
        (f"[poll]\nmax_attempts = 0x{'f' * 5000}", "a huge number: must be"),
        (f"[poll]\ninterval = '{'9' * 500}s'", "poll.interval: must be a duration"),
        ("[poll]\ndeadline = '0s'", '"1ms" to "10m"'),
        ("[poll]\ndeadline = '601s'", '"1ms" to "10m"'),
        ("[poll]\nmax_attempts = 0", "from 1 to 10"),
        ("[poll]\nmax_attempts = 11", "from 1 to 10"),
        ("[poll]\nmax_attempts = 2.0", "from 1 to 10"),
        ("[poll]\nmax_response_size = '1023B'", '"1KiB" to "1GiB"'),
        ("[poll]\nmax_response_size = '2GiB'", '"1KiB" to "1GiB"'),
        ("[poll]\nmax_response_size = 1024", "size with its unit"),
        ("[poll]\nconfirm_removal = 101", "from 1 to 100"),
        ("[spool]\nmax_size = '1023KiB'", '"1MiB"'),
        ("[spool]\ndirectory = ''", "must be a path"),
        ("[spool]\ndirectory = '~/spool'", "write ${HOME}"),
        ("[log]\nformat = 'xml'", '"text" or "json"'),
        ("[database]\nauto_migrate = 1", "true or false"),
        ("[metrics]\nlisten = ':9464'", "a host and a port"),
        ("[metrics]\nlisten = '::1:9464'", "a host and a port"),
        ("[metrics]\nlisten = '127.0.0.1'", "a host and a port"),
        ("[metrics]\nlisten = '127.0.0.1:0'", "a port from 1 to 65535"),
        ("[metrics]\nlisten = '127.0.0.1:65536'", "a port from 1 to 65535"),
        ("key_id = 'x'", 'did you mean "key_id" in [[accounts]]?'),
        ("zzz = 1", "known here are accounts, database, poll"),
    ],
)
def test_a_fault_says_what_is_wrong(directory: Directory, text: str, reason: str) -> None:
    assert reason in directory.fault(text)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("main", "", "visible characters"),
        ("main", " main", "visible characters"),
        ("main", "a\u200bb", "visible characters"),
        ("main", "m" * 65, "visible characters"),
        ("main", "a\\tb", "control characters"),
        ('"main"', "3", "accounts[0].name = 3: must be"),
        ('"demo"', '"prod"', '"production" or "demo"'),
        ('environment = "demo"', "", "must have one of environment and base_url, neither is set"),
        ('"demo"', '"demo"\nbase_url = "https://x/y"', "both are set"),
        ("0123456789abcdef", "", "ASCII characters without blanks"),
        ("0123456789abcdef", "a b", "ASCII characters without blanks"),
        ("0123456789abcdef", "ä", "ASCII characters without blanks"),
        ("0123456789abcdef", "k" * 201, "ASCII characters without blanks"),
        ('key_id = "0123456789abcdef"', "", "key_id: is missing"),
        ('"kalshi.pem"', '"""-----BEGIN PRIVATE KEY-----\nMII"""', "not the key itself"),
        ('"kalshi.pem"', '"kalshi.pem"\nsubaccount = -1', "0 or larger"),
        ('"kalshi.pem"', f'"kalshi.pem"\nsubaccount = 0x{"f" * 5000}', "a huge number: must be"),
        ('"kalshi.pem"', '"kalshi.pem"\nsubaccount = false', "0 or larger"),
        ('"kalshi.pem"', '"kalshi.pem"\nexchange = "sports"', '"predictions" or "margin"'),
        ('"kalshi.pem"', '"kalshi.pem"\nstream = "no"', "true or false"),
        ("[[accounts]]", "[accounts]", "[[accounts]], with two brackets"),
    ],
)
def test_an_account_at_fault_says_so(
    directory: Directory, before: str, after: str, reason: str
) -> None:
    fault = directory.fault("", account=ACCOUNT_TOML.replace(before, after))
    assert reason in fault
    assert "abcdef" not in fault
    assert "MII" not in fault


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/trade-api/v2", "must be https"),
        ("http://127.0.0.1.example.com/", "must be https"),
        ("http://localhost.example.com/", "must be https"),
        ("http://10.0.0.1/", "must be https"),
        ("ftp://example.com", "must be a URL such as"),
        ("example.com/trade-api/v2", "must be a URL such as"),
        ("https:///trade-api/v2", "must be a URL such as"),
        ("https://user:hush@example.com/", "must not hold a user"),
        ("https://example.com/?", "must not hold a user, a query"),
        ("https://example.com/#x", "must not hold a user, a query or a fragment"),
        ("https://example.com:99999/", "a port from 1 to 65535"),
        ("https://example.com:hush/", "a port from 1 to 65535"),
        ("https://[hush]/", "a valid host"),
        ("https://example.com:/", "port"),
        ("https://[::1/", "a valid host"),
        ("https://exa mple.com/", "must be a URL such as"),
    ],
)
def test_a_base_url_is_https_and_nothing_but_an_address(
    directory: Directory, url: str, reason: str
) -> None:
    account = ACCOUNT_TOML.replace('environment = "demo"', f'base_url = "{url}"')
    fault = directory.fault("", account=account)
    assert reason in fault
    assert "hush" not in fault


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1/x", "http://127.9.9.9", "http://[::1]:80/x", "HTTPS://example.com:443/x"],
)
def test_a_base_url_may_be_http_on_this_machine(directory: Directory, url: str) -> None:
    account = ACCOUNT_TOML.replace('environment = "demo"', f'base_url = "{url}//"')
    assert directory.load("", account=account).accounts[0].base_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://example.com/trade-api/ws/v2", "must be wss"),
        ("ws://10.0.0.1/", "must be wss"),
        ("https://example.com/trade-api/ws/v2", "must be a URL such as wss://"),
        ("wss://user:hush@example.com/", "must not hold a user"),
        ("wss://example.com/?hush", "must not hold a user, a query"),
        ("wss://example.com:hush/", "a port from 1 to 65535"),
    ],
)
def test_a_stream_url_is_wss_and_nothing_but_an_address(
    directory: Directory, url: str, reason: str
) -> None:
    fault = directory.fault("", account=f'{ACCOUNT_TOML}stream_url = "{url}"\n')
    assert reason in fault
    assert "hush" not in fault


@pytest.mark.parametrize(
    "url", ["wss://example.com/trade-api/ws/v2", "ws://127.0.0.1:1/x", "ws://[::1]:1/x"]
)
def test_a_stream_url_may_be_ws_on_this_machine(directory: Directory, url: str) -> None:
    configuration = directory.load("", account=f'{ACCOUNT_TOML}stream_url = "{url}"\n')
    assert configuration.accounts[0].stream_url == url


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://me:hu%40sh@proxy:1", "http://me:hu%40sh@proxy:1"),
        ("http://me:${PASSWORD}@proxy:1", "http://me:hu%2Fsh%40@proxy:1"),
        ("${PROXY}", "http://proxy:8080"),
    ],
)
def test_a_proxy_may_have_a_password_which_nothing_shows(
    directory: Directory, written: str, url: str
) -> None:
    directory.environment.update(PASSWORD="hu/sh@", PROXY="http://proxy:8080")
    configuration = directory.load(f'[http]\nproxy = "{written}"\n')
    assert configuration.http.proxy == url
    assert "hu" not in repr(configuration.http)
    assert ("hu/sh@" in configuration.secrets) == ("hu%2F" in url)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("https://proxy:1", "must begin with http://"),
        ("socks5://me:hush@proxy:1", "must begin with http://"),
        ("proxy:3128", "must be a URL such as http://proxy.example:3128"),
        ("http://proxy", "must have a port"),
        ("http://proxy:0", "must have a port"),
        ("http://me:hush@proxy:port", "a port from 1 to 65535"),
        ("http://me:hu@sh@proxy:1", "must have an @ in its user or password written as %40"),
        ("http://proxy:1/hush", "must end after the port"),
        ("http://proxy:1?hush", "must end after the port"),
    ],
)
def test_what_is_no_proxy_is_refused(directory: Directory, written: str, reason: str) -> None:
    fault = directory.fault(f'[http]\nproxy = "{written}"\n')
    assert reason in fault
    assert "hush" not in fault


def test_names_that_differ_in_case_only_are_the_same(directory: Directory) -> None:
    fault = directory.fault("", account=ACCOUNT_TOML + ACCOUNT_TOML.replace("main", "MAIN"))
    assert fault == "9: accounts[1].name: the same name as accounts[0], letter case apart"


def test_no_accounts_is_a_fault_with_an_example(directory: Directory) -> None:
    fault = directory.fault("", account="")
    assert "accounts: there are none" in fault
    assert all(f"{key.name} = " in fault for key in ACCOUNT if key.required)


@pytest.mark.parametrize("account", ["accounts = [3]", "accounts = [[]]"])
def test_an_account_that_is_no_table_is_a_fault(directory: Directory, account: str) -> None:
    assert "accounts[0]: must be a table" in directory.fault("", account=account)


# The file itself


def load_fault(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    (fault,) = caught.value.faults
    assert fault.isprintable()
    assert fault.startswith(f"{path}: ")
    return fault


def test_a_missing_file_suggests_init(tmp_path: Path) -> None:
    assert "kalshi-exporter init" in load_fault(tmp_path / "none.toml")


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
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
def test_what_is_no_toml_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    assert reason in load_fault(file)


# The environment


def test_values_come_from_the_environment_and_other_dollars_stay(directory: Directory) -> None:
    directory.environment.update(DATA="/data", UNIT="s")
    configuration = directory.load(
        '[spool]\ndirectory = "${DATA}/$x/$${DATA}/$$"\n[poll]\ninterval = "5${UNIT}"\n'
    )
    assert configuration.spool.directory == Path("/data/$x/${DATA}/$$")
    assert configuration.accounts[0].poll.interval == 5.0


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("${NOT_SET}", "environment variable NOT_SET is not set"),
        ("${NOT_SET}${NEITHER}", "NOT_SET is not set, environment variable NEITHER is not set"),
        ("${BROKEN}", "environment variable BROKEN holds a line break or control character"),
        ("${UNDECODABLE}", "environment variable UNDECODABLE holds"),
        ("${A:-b}", "must be followed by a name"),
        ("${", "must be followed by a name"),
    ],
)
def test_a_variable_that_cannot_be_used_is_a_fault(
    directory: Directory, written: str, reason: str
) -> None:
    directory.environment.update(BROKEN="hush\n", UNDECODABLE="hush\udcff")
    fault = directory.fault(f"[spool]\ndirectory = '{written}'\n")
    assert reason in fault
    assert "hush" not in fault


def test_an_expanded_value_is_in_no_fault(directory: Directory) -> None:
    directory.environment["SECRET"] = "hush hush"
    text = "".join(
        f"[{section}]\n" + "".join(f'{key.name} = "${{SECRET}}"\n' for key in keys)
        for section, keys in SECTIONS.items()
        if section != "spool"
    )
    account = "[[accounts]]\n" + "".join(f'{key.name} = "${{SECRET}}"\n' for key in ACCOUNT)
    faults = directory.faults(text, account=account)
    assert len(faults) > 10
    assert "hush" not in "".join(faults)
    assert any("'${SECRET}'" in fault for fault in faults)


# The database


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("sqlite:///x.db", "sqlite:///{directory}/x.db"),
        ("sqlite:///data/x.db", "sqlite:///{directory}/data/x.db"),
        ("sqlite:////x.db", "sqlite:////x.db"),
        ("sqlite:///${ROOT}/a@b.db", "sqlite:////r@t/a@b.db"),
        ("postgres://h/db", "postgresql+psycopg://h/db"),
        ("postgresql://h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg:///db", "postgresql+psycopg:///db"),
        ("postgresql://u:p@[::1]:5432/db", "postgresql+psycopg://u:p@[::1]:5432/db"),
        (
            "postgresql+psycopg://u:p@/db?host=a:5432&host=b:5432",
            "postgresql+psycopg://u:p@/db?host=a:5432&host=b:5432",
        ),
        (
            "postgresql://u:${ODD}@${HOST}:${PORT}/db?options=${ODD}",
            "postgresql+psycopg://u:%40%2F%25%3F%3A%23@db:5433/db?options=%40%2F%25%3F%3A%23",
        ),
        ("${URL}", "postgresql+psycopg://u:p%40@h/db"),
    ],
)
def test_a_database_url_is_made_absolute_and_names_its_driver(
    directory: Directory, written: str, url: str
) -> None:
    directory.environment.update(
        ODD="@/%?:#", HOST="db", PORT="5433", ROOT="/r@t", URL="postgres://u:p%40@h/db"
    )
    loaded = directory.load(f'[database]\nurl = "{written}"\n').database.url
    assert loaded == url.format(directory=directory.path)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("mysql://u:hush@h/db", "must begin with one of sqlite://, postgresql://"),
        ("postgresql+psycopg2://u:hush@h/db", "postgresql+psycopg://"),
        ("order_groups.db", "must begin with one of"),
        ("sqlite:x.db", "must begin with one of"),
        ("sqlite://", "a database in memory would be lost"),
        ("sqlite:///", "a database in memory would be lost"),
        ("sqlite:///:memory:", "a database in memory would be lost"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///x.db?mode=ro", "must not have options after ?"),
        ("sqlite:///x%20y.db", "a path without ? and %"),
        ("sqlite:///~/x.db", "must not start with ~"),
        ("postgresql://u:hu@sh@h/db", "percent-encoded"),
        ("postgresql://u:hush@a:5432,b:5432/db", "a port from 1 to 65535"),
        ("postgresql://u:hush@h:0/db", "a port from 1 to 65535"),
        ("postgresql://u:hush@h:x/db", "a port from 1 to 65535"),
    ],
)
def test_a_database_url_that_would_not_work_is_refused(
    directory: Directory, written: str, reason: str
) -> None:
    fault = directory.fault(f'[database]\nurl = "{written}"\n')
    assert reason in fault
    assert "hush" not in fault


def test_a_directory_that_no_sqlite_url_can_name_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "100%"
    odd.mkdir()
    assert "a path without ? and %" in Directory(odd).fault("")


def test_postgres_without_its_driver_names_the_extra(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    fault = directory.fault('[database]\nurl = "postgresql://h/db"\n')
    assert "pip install '.[postgres]'" in fault


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])))
def test_sqlalchemy_gets_any_password_back(password: str) -> None:
    url = expanded("postgresql+psycopg://u:${PASSWORD}@h:5432/db", {"PASSWORD": password})
    assert make_url(url).password == password
    assert make_url(url).host == "h"
    assert without_secrets(url) == "postgresql+psycopg://u:***@h:5432/db"
    if password:
        assert password in secrets_of(url)


def expanded(template: str, environment: Mapping[str, str]) -> str:
    from exporter.config.urls import DATABASE_URL

    url = DATABASE_URL.read(template, Path("/"), environment)
    assert isinstance(url, str)
    return url


# Secrets


def test_nothing_printable_shows_a_secret(directory: Directory) -> None:
    directory.environment["PASSWORD"] = "hu/sh"
    configuration = directory.load(
        '[database]\nurl = "postgresql://u:${PASSWORD}@h/db?sslpassword=quiet"\n'
    )
    printed = f"{configuration} {configuration!r} {configuration.accounts} {configuration.database}"
    assert "0123456789" not in printed
    assert "…cdef" in printed
    assert "hu/sh" not in printed
    assert "hu%2Fsh" not in printed
    assert "quiet" not in printed
    assert configuration.database.safe_url == "postgresql+psycopg://u:***@h/db?sslpassword=***"
    assert configuration.secrets == ("hu%2Fsh", "hu/sh", "quiet", "0123456789abcdef")


# Durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("60s", 60.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1m30s", 90.0),
        ("1d12h", 129_600.0),
        ("0s", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "60", "s", "-1s", "1 s", " 1s", "1s ", "1S", "30s1m", "1s1s", "1y", "1e3s", ".5s", "٣s",
     "nans", "infs", "1s\n", "101w" * 2, "999999999w"],
)  # fmt: skip
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@given(st.integers(0, 36_525 * 86_400_000))
def test_a_duration_spelled_out_comes_back(milliseconds: int) -> None:
    text, rest = "", milliseconds
    for unit, scale in (
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ):
        count, rest = divmod(rest, scale)
        text += f"{count}{unit}" if count else ""
    assert parse_duration(text or "0s") == pytest.approx(milliseconds / 1000, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096B", 4096),
        ("512KiB", 524_288),
        ("64MiB", 67_108_864),
        ("1GiB", 2**30),
        ("100MB", 100_000_000),
        ("3kB", 3000),
        ("3KB", 3000),
        ("2GB", 2_000_000_000),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "64", "MiB", "64 MiB", "64mib", "1.5GiB", "-1B", "1TiB\n"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@given(st.integers(0, 10**12 - 1), st.sampled_from([("B", 1), ("KiB", 2**10), ("GB", 10**9)]))
def test_a_size_spelled_out_comes_back(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]


# Whatever the file holds

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
def test_any_file_is_read_or_refused_with_a_line_for_each_fault(
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
