"""Private keys as people keep them: a file's bytes become PEM or DER that cryptography reads.

Editors, shells and secret stores change a key on its way into a file. A text that can be read
without doubt is read; for any other, the cause is named.
"""

import base64
import binascii
import re

_BLOCK = re.compile(
    r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----(?P<body>.*?)-----END (?P=label)-----", re.DOTALL
)
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_SMALLEST_BODY = 48  # bytes of DER; an Ed25519 key in PKCS#8


def decoded(content: bytes) -> str:
    """Decode a file's text: UTF-8 or UTF-16, with or without a byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if content[1::2].count(0) == len(content) // 2 > 0:
        return content.decode("utf-16-le", "replace")
    if content[::2].count(0) == (len(content) + 1) // 2 > 0:
        return content.decode("utf-16-be", "replace")
    return content.decode("utf-8-sig", "replace")


def plain(text: str) -> str:
    r"""Undo what shells and secret stores do: quotes around the text, and `\n` for line breaks."""
    text = re.sub(r"(?:\\r)?\\n", "\n", text).strip().strip("'\"").strip()
    if "-----" in text:
        return text
    # Kubernetes and CI variables hold base64 of the whole PEM file.
    inner = _from_base64(text)
    if inner is not None and b"-----BEGIN" in inner:
        return decoded(inner).strip()
    return text


def der_of(text: str) -> bytes | None:
    """Return a key's DER, whatever its header calls it; None if it is not plain base64.

    Args:
        text: a PEM file as `plain` returns it, or the base64 between the lines BEGIN and END.
    """
    block = next(
        (each for each in _BLOCK.finditer(text) if "PRIVATE KEY" in each["label"]),
        None,
    )
    return _from_base64(block["body"] if block else text)


def count_private_keys(text: str) -> int:
    """Return how many different private keys a PEM file holds.

    Args:
        text: as `plain` returns it.
    """
    return len(
        {
            "".join(block["body"].split())
            for block in _BLOCK.finditer(text)
            if "PRIVATE KEY" in block["label"]
        }
    )


def damage(text: str) -> str:
    """Return what is wrong with a text that should be a private key in PEM, without quoting it.

    Args:
        text: as `plain` returns it; it mentions a private key.
    """
    if _BEGIN.search(text) is None:
        return "its first line is not exactly -----BEGIN … PRIVATE KEY-----, with five hyphens"
    block = _BLOCK.search(text, _BEGIN.search(text).start())  # type: ignore[union-attr]  # found above
    if block is None:
        return "its last line, -----END … PRIVATE KEY-----, is missing or not as the first"
    body = block["body"].strip()
    for number, line in enumerate(body.splitlines(), start=1):
        if re.search(r"[^A-Za-z0-9+/=\s]", line) and not line.startswith(("Proc-Type", "DEK-Info")):
            return f"line {number} after BEGIN holds a character that is not base64"
    der = _from_base64(body)
    if der is None:
        return "characters are missing between BEGIN and END"
    expected = _length(der)
    if expected is not None and expected != len(der):
        change = "missing" if len(der) < expected else "too many"
        return f"{abs(expected - len(der))} bytes are {change} between BEGIN and END"
    return "its PEM text holds no readable private key"


def _from_base64(text: str) -> bytes | None:
    compact = "".join(text.split())
    try:
        found = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) >= _SMALLEST_BODY else None


def _length(der: bytes) -> int | None:
    """Return the bytes that a DER sequence claims to have, header included; None if it is none."""
    if der[0] != 0x30:  # noqa: PLR2004  # ASN.1's tag of a sequence
        return None
    first = der[1]
    if first < 0x80:  # noqa: PLR2004  # the short form
        return first + 2
    count = first & 0x7F
    return int.from_bytes(der[2 : 2 + count]) + 2 + count
