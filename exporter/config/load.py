"""The TOML configuration as frozen values, or all its faults in one error.

`config_keys` has the table of keys that it goes by, `config_values` what each may hold.
"""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.config.keys import ACCOUNT, ENVIRONMENTS, POLL, SECTIONS, Key
from exporter.config.model import (
    Account,
    Configuration,
    Database,
    Http,
    Log,
    Metrics,
    Notify,
    PollSettings,
    Spool,
    Stream,
)
from exporter.errors import ConfigurationError

_EXAMPLE = (
    '[[accounts]] followed by name = "main", environment = "production", key_id = "...", '
    'private_key_file = "kalshi.pem", each on a line of its own'
)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read the configuration file.

    Args:
        path: of the TOML file; relative paths inside it start from its directory.
        environment: where `${NAME}` is looked up.

    Raises:
        ConfigurationError: with every fault that the file has, one line each.
    """
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    reader = _Reader(path.absolute().parent, environment)
    configuration = reader.configuration(path.absolute(), document)
    if configuration is None:
        raise ConfigurationError(*_located(reader.faults, path, text))
    return configuration


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        fault = "no such file, `kalshi-exporter init` writes one to begin with"
    except IsADirectoryError:
        fault = "is a directory, not a configuration file"
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 text (byte {error.start})"
    except (OSError, ValueError) as error:
        fault = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigurationError(f"{path}: {fault}")


class _Reader:
    """Turns a document into values and collects its faults, as pairs of key path and reason."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.faults: list[tuple[str, str]] = []
        self._directory = directory
        self._environment = environment

    def configuration(self, path: Path, document: Mapping[str, Any]) -> Configuration | None:
        """The whole of it, or None if there are faults."""
        self._refuse_unknown(document, "", {"accounts": "", **dict.fromkeys(SECTIONS, "")})
        tables = {
            name: self._table(document.get(name, {}), name, keys) for name, keys in SECTIONS.items()
        }
        accounts = self._accounts(document.get("accounts", []))
        if self.faults:
            return None
        host, port = tables["metrics"].pop("listen")
        return Configuration(
            path=path,
            database=Database(**tables["database"]),
            stream=Stream(**tables["stream"]),
            http=Http(**tables["http"]),
            spool=Spool(**tables["spool"]),
            log=Log(**tables["log"]),
            metrics=(
                Metrics(host=host, port=port, **tables["metrics"])
                if "metrics" in document
                else None
            ),
            notify=Notify(**tables["notify"]),
            accounts=tuple(_account(values, tables) for values in accounts),
        )

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
                said = "both are set" if "base_url" in table else "neither is set"
                self._fault(f"accounts[{i}]", f"must have one of environment and base_url, {said}")
            if isinstance(name := values.get("name"), str):
                first = seen.setdefault(name.casefold(), i)
                if first != i:
                    reason = f"the same name as accounts[{first}], letter case apart"
                    self._fault(f"accounts[{i}].name", reason)
        return accounts

    def _table(self, raw: object, where: str, keys: tuple[Key, ...]) -> dict[str, Any]:
        """Its values by key name, with defaults; a key at fault has none."""
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
            except ValueError as error:
                shown = f" = {_shown(value)}" if key.kind.shown else ""
                self._fault(f"{where}.{key.name}", f"{error} ({key.meaning})", shown)
        return values

    def _refuse_unknown(self, raw: Mapping[str, Any], where: str, known: Mapping[str, str]) -> None:
        for name in raw:
            if name not in known:
                path = f"{where}.{_spelled(name)}" if where else _spelled(name)
                self._fault(path, f"unknown key, {_hint(name, where, known)}")

    def _fault(self, where: str, reason: str, shown: str = "") -> None:
        self.faults.append((where, f"{shown}: {reason}"))


def _account(values: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> Account:
    poll = {
        key.name: tables["poll"][key.name] if values[key.name] is None else values[key.name]
        for key in POLL
    }
    own = {key.name: values[key.name] for key in ACCOUNT}
    own["base_url"] = own["base_url"] or ENVIRONMENTS[own["environment"]]
    if own["stream"] is None:
        own["stream"] = tables["stream"]["enabled"]
    return Account(**own, poll=PollSettings(**poll))


def _hint(name: str, where: str, known: Mapping[str, str]) -> str:
    """What was probably meant: a key of this table, or else a key of another one."""
    import difflib  # noqa: PLC0415 - only for a configuration that is wrong

    for near in difflib.get_close_matches(name.lower(), known, n=1):
        meaning = f" ({known[near]})" if known[near] else ""
        return f'did you mean "{near}"?{meaning}'
    homes: dict[str, list[str]] = {}
    for heading, keys in {**SECTIONS, "accounts": ACCOUNT}.items():
        for key in keys if heading != where else ():
            homes.setdefault(key.name, []).append(
                "[[accounts]]" if heading == "accounts" else f"[{heading}]"
            )
    for near in difflib.get_close_matches(name.lower(), homes, n=1):
        return f'did you mean "{near}" in {" or ".join(homes[near])}?'
    return f"known here are {', '.join(known)}"


def _spelled(name: str) -> str:
    """A key as TOML would have it, on one line and not too long."""
    return name if re.fullmatch("[A-Za-z0-9_-]{1,64}", name) else _shown(name)


def _shown(value: object) -> str:
    """A value as the file has it, on one line and not too long."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:60]}…")  # noqa: PLR2004 - a glance
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        # Python refuses to spell out the largest integers.
        return str(value) if isinstance(value, float) or abs(value) < 10**18 else "a huge number"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    return "a date or time"


_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]")
_ASSIGNMENT = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _located(faults: Iterable[tuple[str, str]], path: Path, text: str) -> list[str]:
    """The faults as lines for people, in the file's order, with line numbers where they are found.

    tomllib forgets where it found a value, so this looks for headings and keys as people write
    them. What is written otherwise (inline tables, say) gets its table's line, or none.
    """
    lines: dict[str, int] = {}
    tables = Counter[str]()
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            table = header[2].replace('"', "").replace("'", "")
            if header[1] == "[[":
                tables[table] += 1
                table = f"{table}[{tables[table] - 1}]"
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment[1].replace('"', "").replace("'", "")
            lines.setdefault(f"{table}.{key}" if table else key, number)
    located = [
        (lines.get(where) or lines.get(where.rpartition(".")[0]), where, reason)
        for where, reason in faults
    ]
    located.sort(key=lambda fault: fault[0] or 0)
    return [
        f"{path}:{line}: {where}{reason}" if line else f"{path}: {where}{reason}"
        for line, where, reason in located
    ]
