"""Replace `${NAME}` in the texts of a configuration by what the environment holds."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from exporter.config.secrecy import could_be_secret, is_key

# No text here may hold these characters: they end a line, garble a terminal, or fit no encoding.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLACEHOLDER = re.compile(r"\$(?P<escape>\$)?\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?")


class UnsetVariableError(ValueError):
    """A variable that a text names is not set."""


def expand(template: str, environment: Mapping[str, str]) -> str:
    """Replace every `${NAME}` by the variable's value; `$${` stands for a literal `${`.

    Raises:
        UnsetVariableError: the only fault is that variables are not set.
        ValueError: a variable is not usable, or a `${` names none.
    """
    return _expand(template, environment, lambda value, _start: value)


def expand_url(template: str, environment: Mapping[str, str]) -> str:
    """Replace variables as `expand` does, in a URL whose credentials may hold any character.

    Values in the user, the password and the options after `?` are percent-encoded, so that a
    password with `@`, `/` or `%` works as it is. Other parts, SQLite's path, and a URL that is one
    `${NAME}` and nothing else, are taken as they are.

    Raises:
        UnsetVariableError, ValueError: as `expand`.
    """
    whole = _PLACEHOLDER.fullmatch(template)
    if whole or template.startswith("sqlite"):
        return expand(template, environment)
    question = template.find("?")
    at = template.rfind("@", 0, question if question >= 0 else None)

    def encode(value: str, start: int) -> str:
        return quote(value, safe="") if start < at or 0 <= question < start else value

    return _expand(template, environment, encode)


def _expand(
    template: str, environment: Mapping[str, str], encode: Callable[[str, int], str]
) -> str:
    unset: list[str] = []
    faults: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if match["escape"]:
            return match.group()[1:]
        if name is None:
            faults.append("${ must be followed by a name and }, and a literal ${ is written $${")
        elif name not in environment:
            unset.append(f"environment variable {_shown(name)} is not set")
        elif UNSAFE.search(environment[name]):
            fault = "holds a line break or control character"
            if is_key(environment[name]):
                fault = "holds a key: put that into a file, and name the file here"
            faults.append(f"environment variable {_shown(name)} {fault}")
        else:
            return encode(environment[name], match.start())
        return ""

    text = _PLACEHOLDER.sub(replace, template)
    if faults:
        raise ValueError(", ".join(dict.fromkeys(unset + faults)))
    if unset:
        raise UnsetVariableError(", ".join(dict.fromkeys(unset)))
    return text


def _shown(name: str) -> str:
    # The text between the braces may be a secret.
    return "(its name is not shown, it could be a secret)" if could_be_secret(name) else name
