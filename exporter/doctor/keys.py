"""Check the accounts' private keys."""

import stat
from collections.abc import Iterator

from exporter import wiring
from exporter.config.model import Account
from exporter.doctor.filesystem import git_tree_of
from exporter.doctor.finding import Finding, failed
from exporter.errors import PrivateKeyError
from exporter.kalshi.keys import SigningKey


def check_key(account: Account, keys: dict[str, SigningKey]) -> Iterator[Finding]:
    """Load an account's key, and check where its file lies.

    Args:
        account: the account whose key to load.
        keys: the usable keys by account name; this function adds the account's key.
    """
    subject = f"key of {account.name}"
    try:
        keys[account.name] = key = wiring.key_of(account)
    except PrivateKeyError as error:
        yield from (failed(subject, error, fault) for fault in error.faults)
    else:
        yield from _key(subject, key, account)


def _key(subject: str, key: SigningKey, account: Account) -> Iterator[Finding]:
    path = account.private_key_file
    try:
        mode = f", mode {stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:  # a pipe or a descriptor is gone once it has been read
        mode = ""
    yield Finding(subject=subject, text=f"{key.describe()}, {path}{mode}")
    for each in filter(None, (path, account.private_key_passphrase_file)):
        tree = git_tree_of(each)
        if tree is not None:
            yield Finding(
                subject=subject,
                text=f"{each} lies in the git working tree {tree}, one `git add` away from being"
                " published: move it out of there; if it was ever committed, make a new key",
                doubtful=True,
            )
