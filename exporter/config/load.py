"""Read a TOML file: it becomes frozen values, or all its faults in one error.

The reader is written by hand because cron pays for it every minute: pydantic would add 69 ms to a
`run-once` of 240 ms, cattrs 24 ms. It follows the table in `keys`.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

from msgspec.structs import replace

from exporter.config.environment import UNSAFE, UnsetVariableError
from exporter.config.faults import hint, located, shown, spelled, without_names
from exporter.config.keys import ACCOUNT, ENVIRONMENTS, POLL, SECTIONS, Key
from exporter.config.model import (
    Account,
    Configuration,
    Database,
    HistoryConfiguration,
    Http,
    Log,
    Metrics,
    Notify,
    PollSettings,
    RecordedAccount,
    Spool,
    Stream,
)
from exporter.errors import ConfigurationError

_EXAMPLE = (
    '[[accounts]] followed by name = "main", environment = "production", key_id = "...", '
    'private_key_file = "kalshi.pem", each on a line of its own'
)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read the whole configuration.

    Args:
        path: of the TOML file; relative paths inside it start from its directory.
        environment: where `${NAME}` is looked up.

    Raises:
        ConfigurationError: with every fault that the file has, one line each.
    """
    path, reader, document = _read(path, environment, every_key=True)
    tables = reader.tables
    host, port = tables["metrics"].pop("listen")
    return Configuration(
        path=path,
        database=Database(**tables["database"]),
        stream=Stream(**tables["stream"]),
        http=Http(**tables["http"]),
        spool=Spool(**tables["spool"]),
        log=Log(**tables["log"]),
        metrics=(
            Metrics(host=host, port=port, **tables["metrics"]) if "metrics" in document else None
        ),
        notify=Notify(**tables["notify"]),
        accounts=tuple(_account(values, tables) for values in reader.accounts),
    )


def load_history(path: Path, environment: Mapping[str, str] = os.environ) -> HistoryConfiguration:
    """Read the parts that concern the history.

    Variables of keys and addresses need not be set; all other faults are found as by `load`.

    Args:
        path: as for `load`.
        environment: as for `load`.

    Raises:
        ConfigurationError: with every fault, one line each.
    """
    path, reader, _ = _read(path, environment, every_key=False)
    return HistoryConfiguration(
        path=path,
        database=Database(**reader.tables["database"]),
        spool=Spool(**reader.tables["spool"]),
        log=Log(**reader.tables["log"]),
        accounts=tuple(
            RecordedAccount(
                name=values["name"],
                poll=_poll(values, reader.tables["poll"]),
                stream=_stream(values, reader.tables["stream"]),
            )
            for values in reader.accounts
        ),
    )


def _read(
    path: Path, environment: Mapping[str, str], *, every_key: bool
) -> tuple[Path, "_Reader", Mapping[str, Any]]:
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {without_names(str(error))}") from None
    try:
        absolute = path.absolute()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the current directory cannot be found: {error.strerror}"
        ) from None
    if UNSAFE.search(str(absolute.parent)):
        # Databases and logs hold paths as UTF-8 text, so a path must be valid UTF-8.
        raise ConfigurationError(
            f"{path}: its directory has a name that is not printable UTF-8 text: move it elsewhere"
        )
    reader = _Reader(absolute.parent, environment, every_key=every_key)
    reader.read(document)
    if reader.faults:
        raise ConfigurationError(*located(reader.faults, path, text))
    return absolute, reader, document


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        fault = "no such file, `kalshi-exporter init` writes one to begin with"
    except IsADirectoryError:
        fault = "is a directory, not a configuration file"
    except PermissionError:
        fault = "cannot be read: Permission denied; run as the user who may, or change its mode"
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 text (byte {error.start})"
    except (OSError, ValueError) as error:
        fault = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigurationError(f"{path}: {fault}")


class _Reader:
    """A reader that turns a document into values.

    Attributes:
        faults: pairs of a key's path and the reason, empty if there are none.
        tables: the values of each section by key name, with defaults.
        accounts: the same for each account; None for a key that may be absent.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], *, every_key: bool) -> None:
        self.faults: list[tuple[str, str]] = []
        self.tables: dict[str, dict[str, Any]] = {}
        self.accounts: list[dict[str, Any]] = []
        self._directory = directory
        self._environment = environment
        self._every_key = every_key

    def read(self, document: Mapping[str, Any]) -> None:
        """Read all of it."""
        self._refuse_unknown(document, "", {"accounts": "", **dict.fromkeys(SECTIONS, "")})
        self.tables = {
            name: self._table(document.get(name, {}), name, keys) for name, keys in SECTIONS.items()
        }
        self.accounts = self._accounts(document.get("accounts", []))

    def _accounts(self, raw: object) -> list[dict[str, Any]]:
        if not isinstance(raw, list):
            self._fault("accounts", "must be written [[accounts]], with two brackets")
            return []
        if not raw:
            self._fault("accounts", f"there are none, add {_EXAMPLE}")
        keys = (*ACCOUNT, *(replace(key, default=None) for key in POLL))
        accounts = [self._table(table, f"accounts[{i}]", keys) for i, table in enumerate(raw)]
        seen: dict[str, int] = {}
        for i, (table, values) in enumerate(zip(raw, accounts, strict=True)):
            if not isinstance(table, dict):
                continue
            if ("environment" in table) == ("base_url" in table):
                state = "both are set" if "base_url" in table else "neither is set"
                self._fault(f"accounts[{i}]", f"must have one of environment and base_url, {state}")
            if isinstance(name := values.get("name"), str):
                # Names that look alike, such as é as one character or as two, would be confused.
                first = seen.setdefault(normalize("NFKC", name).casefold(), i)
                if first != i:
                    reason = f"the same name as accounts[{first}], or one that looks like it"
                    self._fault(f"accounts[{i}].name", reason)
        return accounts

    def _table(self, raw: object, where: str, keys: tuple[Key, ...]) -> dict[str, Any]:
        """Read one table; a key at fault has no value."""
        if not isinstance(raw, dict):
            self._fault(where, "must be a table of keys and values")
            return {}
        self._refuse_unknown(raw, where, {key.name: key.meaning for key in keys})
        values: dict[str, Any] = {}
        for key in keys:
            value = raw.get(key.name, key.default)
            if value is None:
                values[key.name] = None
                if key.required:
                    self._fault(f"{where}.{key.name}", f"is missing ({key.meaning})")
                continue
            try:
                values[key.name] = key.kind.read(value, self._directory, self._environment)
            except UnsetVariableError as error:
                if self._every_key or key.for_history:
                    self._fault(f"{where}.{key.name}", f"{error} ({key.meaning})", key, value)
            except ValueError as error:
                self._fault(f"{where}.{key.name}", f"{error} ({key.meaning})", key, value)
        return values

    def _refuse_unknown(self, raw: Mapping[str, Any], where: str, known: Mapping[str, str]) -> None:
        for name in raw:
            if name not in known:
                path = f"{where}.{spelled(name)}" if where else spelled(name)
                self._fault(path, f"unknown key, {hint(name, where, known)}")

    def _fault(self, where: str, reason: str, key: Key | None = None, value: object = None) -> None:
        text = shown(value) if key is not None and key.kind.shown else ""
        self.faults.append((where, f"{f' = {text}' if text else ''}: {reason}"))


def _account(values: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> Account:
    own = {key.name: values[key.name] for key in ACCOUNT}
    own["base_url"] = own["base_url"] or ENVIRONMENTS[own["environment"]]
    own["stream"] = _stream(values, tables["stream"])
    return Account(**own, poll=_poll(values, tables["poll"]))


def _stream(values: Mapping[str, Any], section: Mapping[str, Any]) -> bool:
    """Return whether a daemon listens to an account's events."""
    return bool(section["enabled"] if values["stream"] is None else values["stream"])


def _poll(values: Mapping[str, Any], section: Mapping[str, Any]) -> PollSettings:
    """Return the section's settings, overridden by those of an account."""
    return PollSettings(
        **{
            key.name: section[key.name] if values[key.name] is None else values[key.name]
            for key in POLL
        }
    )
