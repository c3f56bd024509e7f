"""The composition root: from a configuration to keys, sessions, a database, a spool, a recorder."""

import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter.clock import Clock
from exporter.config.model import Account, Configuration, HistoryConfiguration
from exporter.database.database import Database
from exporter.errors import ConfigurationError, PrivateKeyError
from exporter.history.claimant import this_process
from exporter.history.exchange import settle
from exporter.history.migrate import ensure_current
from exporter.history.store import Store
from exporter.hooks import Hooks
from exporter.installing import install_command
from exporter.kalshi.keys import SigningKey, load_passphrase, load_private_key
from exporter.kalshi.session import SignedSession
from exporter.logs import redaction
from exporter.recording.keep import Timing
from exporter.recording.poller import Poller
from exporter.recording.recorder import Recorder
from exporter.spool.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.monitoring.metrics import Metrics
    from exporter.recording.stream_writer import StreamPlan

_CONNECTIONS = 16  # connections to Postgres; a poll uses one for a few milliseconds

_OTHER_FILES = 256  # files that libraries, databases and the log have open


def key_of(account: Account) -> SigningKey:
    """Load an account's private key.

    Raises:
        PrivateKeyError: it cannot be used; the text names the file.
    """
    passphrase = None
    path = account.private_key_passphrase_file
    if path is not None:
        passphrase = load_passphrase(path)
        redaction.protect(passphrase.decode(errors="replace"))
    return load_private_key(account.private_key_file, passphrase)


def session_of(
    account: Account, key: SigningKey, stop: threading.Event, proxy: str | None
) -> SignedSession:
    """Make the signed session of an account.

    Args:
        account: whose order groups it asks for.
        key: signs the requests.
        stop: once set, nothing is waited for any more.
        proxy: as `[http] proxy` names it; None for none.

    Raises:
        ConfigurationError: the certificate authorities that the environment names are not there.
    """
    return SignedSession(
        account=account.name,
        exchange=account.exchange,
        base_url=account.base_url,
        key_id=account.key_id,
        key=key,
        max_attempts=account.poll.max_attempts,
        max_response_size=account.poll.max_response_size,
        proxy=proxy,
        stop=stop,
    )


def database_of(configuration: HistoryConfiguration) -> Database:
    """Make the connections to the configured database; nothing is opened yet.

    Raises:
        ConfigurationError: SQLite's file cannot be where it is configured.
    """
    return Database(configuration.database.url, pool_size=_CONNECTIONS)


def spool_of(configuration: HistoryConfiguration) -> Spool:
    """Make the spool of the configured database; nothing is opened yet."""
    return Spool(
        configuration.spool.directory,
        configuration.spool.max_size,
        database=configuration.database.safe_url,
    )


def metrics_of(
    configuration: Configuration, spooled: Callable[[], Mapping[str, int]], *, process: bool
) -> "Metrics":
    """Make the metrics, which count nothing yet.

    Args:
        configuration: with `[metrics]`.
        spooled: counts the polls that wait in the spool, by account.
        process: whether to include this process: its memory, processor time and files.

    Raises:
        ConfigurationError: the library for it is not installed.
    """
    try:
        from exporter.monitoring.metrics import Metrics  # noqa: PLC0415  # an extra's
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{configuration.path}: metrics: needs {error.name}: {install_command('metrics')}"
        ) from error
    return Metrics(spooled, process=process)


def recorder_of(
    configuration: Configuration,
    accounts: Sequence[Account],
    *,
    stop: threading.Event,
    hooks: Hooks | None = None,
    clock: Clock | None = None,
) -> Recorder:
    """Make a recorder with a poller for each account; nothing is opened yet.

    Args:
        configuration: the whole of it.
        accounts: those of it to poll.
        stop: once set, polls end soon: nothing is waited for any more.
        hooks: receive what happens; None if nobody listens.
        clock: the one that dates everything in this process; a new one if None.

    Raises:
        ConfigurationError: a key, a path or the schema is wrong; all keys' faults at once.
    """
    keys = _keys_of(accounts)
    _allow_open_files(len(accounts) + _OTHER_FILES)
    proxy = configuration.http.proxy
    sessions = {
        account.name: session_of(account, keys[account.name], stop, proxy) for account in accounts
    }
    database = database_of(configuration)
    auto_migrate = configuration.database.auto_migrate
    exchanges = {account.name: account.exchange for account in accounts}

    def prepare(database: Database) -> None:
        ensure_current(database, auto_migrate=auto_migrate)
        settle(database, exchanges)

    store = Store(
        database,
        owner=this_process(),
        prepare=prepare,
    )
    spool = spool_of(configuration)
    hooks = hooks or Hooks()
    clock = clock or Clock()
    pollers = [
        Poller(
            account.name,
            subaccount=account.subaccount,
            timing=Timing(
                interval=account.poll.interval,
                deadline=account.poll.deadline,
                confirm_removal=account.poll.confirm_removal,
            ),
            session=sessions[account.name],
            store=store,
            spool=spool,
            clock=clock,
            hooks=hooks,
        )
        for account in accounts
    ]
    return Recorder(
        database=database,
        store=store,
        spool=spool,
        sessions=tuple(sessions.values()),
        pollers=pollers,
        make_stream=lambda: _stream_of(
            configuration=configuration,
            accounts=accounts,
            keys=keys,
            database=database,
            store=store,
            spool=spool,
        ),
    )


def _stream_of(
    *,
    configuration: Configuration,
    accounts: Sequence[Account],
    keys: Mapping[str, SigningKey],
    database: Database,
    store: Store,
    spool: Spool,
) -> "StreamPlan":
    from exporter.history.stream_store import StreamStore  # noqa: PLC0415  # if events are there
    from exporter.recording.stream_backlog import StreamTarget  # noqa: PLC0415  # as above
    from exporter.recording.stream_source import sources_of  # noqa: PLC0415  # as above
    from exporter.recording.stream_writer import StreamPlan  # noqa: PLC0415  # as above
    from exporter.spool.stream import StreamSpool  # noqa: PLC0415  # as above

    return StreamPlan(
        sources=tuple(sources_of(accounts, keys, configuration.http.proxy)),
        target=StreamTarget(
            store=StreamStore(database, prepare=store.prepare),
            spool=StreamSpool(spool),
            database=configuration.database.safe_url,
        ),
    )


def _keys_of(accounts: Sequence[Account]) -> dict[str, SigningKey]:
    """Load the keys of accounts, by account.

    Accounts may share a file, such as the subaccounts of one key. It is loaded once, because an RSA
    key takes half a millisecond and 9 kB of memory.

    Raises:
        ConfigurationError: keys cannot be used; the faults of all accounts.
    """
    keys: dict[str, SigningKey] = {}
    loaded: dict[tuple[Path, Path | None], SigningKey] = {}
    faults: list[str] = []
    for account in accounts:
        files = (account.private_key_file, account.private_key_passphrase_file)
        try:
            if files not in loaded:
                loaded[files] = key_of(account)
            keys[account.name] = loaded[files]
        except PrivateKeyError as error:
            faults.extend(f"account {account.name}: {fault}" for fault in error.faults)
    if faults:
        raise ConfigurationError(*faults)
    return keys


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files: each account has a connection, and the default is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # If the limit stays too low, polls find the exchange unreachable, and say why.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
