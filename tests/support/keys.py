"""Private keys as PEM, as a file has them."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization


def pem(key: Any, passphrase: bytes | None = None, *, traditional: bool = False) -> bytes:
    """Return a private key as PEM.

    Args:
        key: of any type that `cryptography` knows.
        passphrase: encrypts it.
        traditional: whether to use the key type's own format, such as PKCS#1, and not PKCS#8.
    """
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL
        if traditional
        else serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )
    return encoded


def write_key(path: Path, key: Any, passphrase: bytes | None = None) -> Path:
    """Write a private key to a file that only its owner can read, and return the path."""
    path.touch(mode=0o600)
    path.write_bytes(pem(key, passphrase))
    return path
