"""All faults of a configuration are reported at once, each with its line and a remedy."""

import pytest

from exporter.config.keys import ACCOUNT
from tests.support.configuration import ACCOUNT_TOML, Directory

# The key that is written with an escape cannot be found in the text, so its fault names the line
# of its section.
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


def test_all_faults_are_reported_at_once_in_order(
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
        (
            '"kalshi.pem"',
            '"""-----BEGIN PRIVATE KEY-----\nMII"""',
            "must be the path of the key's file",
        ),
        ('"kalshi.pem"', '"kalshi.pem"\nsubaccount = -1', "0 or larger"),
        ('"kalshi.pem"', f'"kalshi.pem"\nsubaccount = 0x{"f" * 5000}', "a huge number: must be"),
        ('"kalshi.pem"', '"kalshi.pem"\nsubaccount = false', "0 or larger"),
        ('"kalshi.pem"', '"kalshi.pem"\nexchange = "sports"', '"predictions" or "margin"'),
        ('"kalshi.pem"', '"kalshi.pem"\nstream = "no"', "true or false"),
        ("[[accounts]]", "[accounts]", "[[accounts]], with two brackets"),
    ],
)
def test_a_fault_of_an_account_says_what_is_wrong(
    directory: Directory, before: str, after: str, reason: str
) -> None:
    fault = directory.fault("", account=ACCOUNT_TOML.replace(before, after))
    assert reason in fault
    assert "abcdef" not in fault
    assert "MII" not in fault


@pytest.mark.parametrize(
    ("one", "other"), [("main", "MAIN"), ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\u0301")]
)
def test_account_names_that_look_alike_are_the_same(
    directory: Directory, one: str, other: str
) -> None:
    named = [ACCOUNT_TOML.replace("main", name) for name in (one, other)]
    fault = directory.fault("", account="".join(named))
    assert fault == "9: accounts[1].name: the same name as accounts[0], or one that looks like it"


def test_a_missing_account_is_a_fault_with_an_example(directory: Directory) -> None:
    fault = directory.fault("", account="")
    assert "accounts: there are none" in fault
    assert all(f"{key.name} = " in fault for key in ACCOUNT if key.required)


@pytest.mark.parametrize("account", ["accounts = [3]", "accounts = [[]]"])
def test_an_account_that_is_not_a_table_is_a_fault(directory: Directory, account: str) -> None:
    assert "accounts[0]: must be a table" in directory.fault("", account=account)
