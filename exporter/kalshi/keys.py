"""Private keys: a file becomes a `SigningKey`, which signs requests and handshakes.

`key_file` reads the file, and `pem` undoes what editors and secret stores did to it.
"""

import base64
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from exporter.errors import PrivateKeyError
from exporter.kalshi import pem
from exporter.kalshi.key_file import read_secret_file

_SMALLEST_RSA_KEY = 2048  # bits

# https://docs.kalshi.com/getting_started/api_keys
_PADDING = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)


class SigningKey:
    """A private key that signs requests, and shows only its kind."""

    __slots__ = ("_description", "_sign")

    def __init__(self, description: str, sign: Callable[[bytes], bytes]) -> None:
        self._description = description
        self._sign = sign

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._description}>"

    def sign(self, message: bytes) -> str:
        """Return the signature of `message`, in base64."""
        return base64.b64encode(self._sign(message)).decode("ascii")

    def describe(self) -> str:
        """Return the key's kind, such as "RSA 2048" or "Ed25519"."""
        return self._description


def load_private_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    r"""Read an RSA (PKCS#1 or PKCS#8) or Ed25519 (PKCS#8) private key.

    The file is PEM. It is also read if its header names another of these formats, if it is UTF-16
    or holds blank lines, quotes or `\n` for line breaks, and if it is base64 of PEM, the base64
    between the lines BEGIN and END, or DER.

    Args:
        path: of the file.
        passphrase: for an encrypted key; ignored if the key is not encrypted.

    Raises:
        PrivateKeyError: the file or the key cannot be used; the text names the path, the fault
            and the remedy, and shows nothing of the key.
    """
    content = read_secret_file(path, "private key")
    text = pem.plain(pem.decoded(content))
    if pem.count_private_keys(text) > 1:
        # Only the exchange could tell which of them belongs to the key's id.
        raise PrivateKeyError(
            f"{path} holds several private keys: leave only the one that belongs to key_id"
        )
    try:
        key = _parse(content, text, passphrase)
    except TypeError:
        raise PrivateKeyError(
            f"{path} is encrypted: set private_key_passphrase_file to a file with its passphrase"
        ) from None
    except UnsupportedAlgorithm:
        raise PrivateKeyError(
            f"{path} holds a key of a kind, or encrypted in a way, that is not supported: "
            "use the RSA or Ed25519 key that the exchange issued"
        ) from None
    except ValueError:
        raise PrivateKeyError(f"{path} {_fault(text, passphrase)}") from None
    match key:
        case RSAPrivateKey():
            return _rsa(path, key)
        case Ed25519PrivateKey():
            return SigningKey("Ed25519", key.sign)
        case _:
            kind = type(key).__name__.removesuffix("PrivateKey")
            raise PrivateKeyError(
                f"{path} holds a key of the kind {kind}: the exchange takes RSA and Ed25519 keys"
            )


def load_passphrase(path: Path) -> bytes:
    """Read the passphrase of a private key from its file, which nobody else may read either.

    Raises:
        PrivateKeyError: the file cannot be used; one line that says why and what to do.
    """
    # An editor adds a newline at the end, which is not part of the passphrase.
    return read_secret_file(path, "passphrase").rstrip(b"\r\n")


def _parse(content: bytes, text: str, passphrase: bytes | None) -> object:
    """Return the key, whatever its form.

    Args:
        content: of the file.
        text: the same as plain text.
        passphrase: None if there is none.

    Raises:
        TypeError: it is encrypted, and there is no passphrase.
        UnsupportedAlgorithm: cryptography does not know its kind.
        ValueError: it is not a private key, or the passphrase does not open it.
    """
    # OpenSSH's own format has no DER within; the exchange issues none.
    if "BEGIN OPENSSH" in text:
        raise ValueError
    try:
        return _load(load_pem_private_key, text.encode(), passphrase)
    except ValueError:
        # The header may name another format than the body has; in DER, the body itself tells.
        der = content if content.startswith(b"\x30") else pem.der_of(text)
        if der is None:
            raise
        return _load(load_der_private_key, der, passphrase)


def _load(load: Callable[..., object], data: bytes, passphrase: bytes | None) -> object:
    # OpenSSL's full check of an RSA key proves its primes to be primes: 30 ms for 2048 bits and
    # 210 ms for 4096, which cron would pay every minute to guard against a key made to deceive
    # its own owner. A key damaged by accident is found by `_rsa` in less than two.
    try:
        return load(data, passphrase, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        if passphrase is None:
            raise
        return load(data, None, unsafe_skip_rsa_key_validation=True)


def _fault(text: str, passphrase: bytes | None) -> str:
    """Return what is wrong with a text that holds no readable private key, and what to do."""
    if "BEGIN OPENSSH PRIVATE KEY" in text:
        return "is in OpenSSH's own format: use the PEM file that the exchange issued"
    if "ENCRYPTED" in text and passphrase is not None:
        return (
            "does not open with the passphrase in private_key_passphrase_file:"
            " another passphrase, or a damaged file"
        )
    if "PRIVATE KEY" in text:
        return f"is damaged: {pem.damage(text)}; download it again or make a new key"
    if "BEGIN CERTIFICATE" in text:
        return "holds a certificate: private_key_file needs the private key"
    if "PUBLIC KEY-----" in text or text.startswith(("ssh-", "ecdsa-")):
        return "holds a public key: private_key_file needs the private key"
    return "is not in PEM: it needs a line -----BEGIN … PRIVATE KEY-----"


def _rsa(path: Path, key: RSAPrivateKey) -> SigningKey:
    if key.key_size < _SMALLEST_RSA_KEY:
        raise PrivateKeyError(
            f"{path} holds an RSA key of {key.key_size} bits: "
            f"use one of at least {_SMALLEST_RSA_KEY}"
        )

    def sign(message: bytes) -> bytes:
        return key.sign(message, _PADDING, hashes.SHA256())

    # A key whose parts do not belong together would sign, and the exchange would refuse its
    # signature, so the operator would look for the fault everywhere but here.
    probe = b"kalshi-exporter"
    try:
        key.public_key().verify(sign(probe), probe, _PADDING, hashes.SHA256())
    except (InvalidSignature, InternalError, ValueError):
        raise PrivateKeyError(
            f"{path} is damaged: the parts of its RSA key do not belong together"
        ) from None
    return SigningKey(f"RSA {key.key_size}", sign)
