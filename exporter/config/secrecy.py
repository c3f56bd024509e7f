"""Judge whether a text could be a secret, so that no message repeats one.

People put keys where paths belong, and passwords where names belong, most often through `${NAME}`.
A message may therefore repeat a value only if it cannot be a secret.
"""

import re
from itertools import pairwise

_LONGEST_SHOWN = 40  # characters
_LONGEST_WORD = 16  # characters of one word in a text that is shown
_SHORTEST_PASSWORD = 6  # characters

# A private key begins so: PEM, base64 of PEM, and base64 or hexadecimal of DER (RSA's PKCS#1 and
# PKCS#8, encrypted PKCS#8, Ed25519's PKCS#8, OpenSSH's own).
_KEY = re.compile(
    r"-----|PRIVATE KEY|LS0tLS1C|b3BlbnNzaC1r"
    r"|(?<![A-Za-z0-9])(?:MI[ICGH][A-Za-z0-9+/_-]{5}|MC[A-Za-z0-9]CAQ"
    r"|30(?i:82[0-9a-f]{4}|[2-7][0-9a-f])02010)"
)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_HEXADECIMAL = re.compile(r"(?:[0-9a-f]{2}[: ]?){20,}", re.IGNORECASE)
_WITH_COLONS = re.compile(r"(?:[0-9a-f]{2}:){19,}", re.IGNORECASE)  # no path or address looks so
_ENCODED = re.compile(r"[A-Za-z0-9+/=_-]{40,}")
_SEED = 43  # characters of base64 for the 32 bytes of an Ed25519 key
_BASE32 = re.compile(r"(?<![A-Z2-7])(?=[A-Z]*[2-7])[A-Z2-7]{50,}")
_TOKEN = re.compile(r"[!-\-0-~]{20,}")  # printable ASCII, except for . and /
_WORD = re.compile(r"[A-Za-z0-9+=]+")
_PLACEHOLDER = re.compile(r"\$\{[A-Z_][A-Z0-9_]{0,63}\}")
_ORDINARY = " ._:/-,'\"()[]{}$+~"  # punctuation of names, paths, times and sizes


def is_key(text: str) -> bool:
    """Tell whether a text holds a private key in some form: PEM, its body, base64, hexadecimal.

    Paths, hosts and names do not look so, whatever UUID or digest is a part of them.
    """
    text = text.strip("'\" \t")
    return (
        _KEY.search(text) is not None
        or _HEXADECIMAL.fullmatch(text) is not None
        or _WITH_COLONS.search(text) is not None
        or _BASE32.search(text) is not None
        or any(map(_is_base64, _ENCODED.findall("".join(text.split()))))
    )


def is_credential(text: str) -> bool:
    """Tell whether a text holds a private key, or is nothing but a key's id or a random token."""
    stripped = text.strip("'\" \t")
    return (
        is_key(text)
        or _UUID.fullmatch(stripped) is not None
        or (_TOKEN.fullmatch(stripped) is not None and _alternates(stripped, least=0.42))
    )


def could_be_secret(text: str) -> bool:
    """Tell whether a text could be a key, a password or a token, so that no message may repeat it.

    Such a text is long, or has a long word or one that mixes letters and digits, or has a
    password's punctuation. `${NAME}` does not count: it names a secret but is none.
    """
    rest = _PLACEHOLDER.sub("", text)
    if len(rest) > _LONGEST_SHOWN or is_key(rest) or _UUID.search(rest):
        return True
    if len(rest) >= _SHORTEST_PASSWORD and any(
        not character.isalnum() and character not in _ORDINARY for character in rest
    ):
        return True
    return any(
        len(word) > _LONGEST_WORD or (len(word) >= _LONGEST_WORD // 2 and _mixes(word))
        for word in _WORD.findall(rest)
    )


def _mixes(word: str) -> bool:
    return word.upper() != word.lower() and any(map(str.isdigit, word))


def _alternates(word: str, *, least: float) -> bool:
    """Tell a random token from words, by how often the kind of character changes.

    The kinds are lower case, upper case and digits. From one character to the next, the kind
    changes in two of three places of a random text of all kinds, in two of five of one without
    upper or lower case, but only in one of three of words written together, LikeThese2.

    Args:
        word: without blanks.
        least: share of places at which the kind changes, in a text with upper and lower case.
    """
    kinds = [c.isdigit() + 2 * c.isupper() for c in word if c.isalnum()]
    turns = sum(a != b for a, b in pairwise(kinds))
    if word in {word.lower(), word.upper()}:
        least = 0.25
    return turns >= least * len(kinds) > 0 and any(map(str.isdigit, word))


def _is_base64(word: str) -> bool:
    """Tell random base64 from the words of a path: upper case, lower case and digits alternate.

    A key may have a path before or after it, so any part of the length of a key counts. Of a
    thousand random keys, two look like words.
    """
    return any(
        _looks_random(word[start : start + _SEED]) for start in range(max(1, len(word) - _SEED + 1))
    )


def _looks_random(text: str) -> bool:
    upper, lower = (sum(map(kind, text)) / len(text) for kind in (str.isupper, str.islower))
    return _alternates(text, least=0.38) and min(upper, lower) > 0.15  # noqa: PLR2004  # of a half
